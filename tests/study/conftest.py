"""Fixtures of the tests of studies."""


import pytest
import studies


@pytest.fixture
def study(tmp_path):
    """Three prompts, two arms."""
    return studies.study(tmp_path)


@pytest.fixture
def app(study):
    found = studies.server(study)
    yield found.app()
    found.votes.close()
