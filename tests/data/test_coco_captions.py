"""COCO's captions as prompts: one of each image, in an order that a seed decides."""

import json

import pytest

from dmd2cli.data.prompts import Prompts
from dmd2cli.data.sources.coco import read_coco
from dmd2cli.data.sources.texts import read_prompts
from dmd2cli.errors import UserError

N = 60


def coco(path, n=N, each=5):
    """Images 0 to n - 1 with `each` captions, as COCO writes them."""
    images = [{"id": 1000 + i, "file_name": f"COCO_val2014_{1000 + i:012}.jpg", "height": 4} for i in range(n)]
    pairs = [(k, 1000 + k % n) for k in range(n * each)]
    captions = [{"image_id": i, "id": k, "caption": f" {k // n} of {i}\n"} for k, i in pairs]
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": captions}))
    return path


def test_every_image_has_one_of_its_own_captions(tmp_path):
    found = read_coco(coco(tmp_path / "c.json"))
    assert len(found) == N == len({name for name, _ in found})
    assert all(name.endswith(f"{caption.split(' of ')[1]}.jpg") for name, caption in found)
    assert len({caption.split(" of ")[0] for _, caption in found}) == 5                  # not always the first


def test_order_and_choice_are_functions_of_the_seed_alone(tmp_path):
    path = coco(tmp_path / "c.json")
    one, two, other = read_coco(path), read_coco(path), read_coco(path, seed=1)
    assert one == two and {name for name, _ in one} == {name for name, _ in other} and one != other
    assert [name for name, _ in one] != sorted(name for name, _ in one)
    more = read_coco(coco(tmp_path / "d.json", N + 40))
    assert [name for name, _ in more if name in dict(one)] == [name for name, _ in one]  # more images: the same order


def test_it_is_a_list_of_prompts(tmp_path):
    path = str(coco(tmp_path / "captions_val2014.json"))
    assert read_prompts(path) == [caption for _, caption in read_coco(tmp_path / "captions_val2014.json")]
    assert len(Prompts(path)) == N


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ("{", None, "c.json: not COCO's captions (JSONDecodeError"),
        ('["a cat"]', None, "not COCO's captions (TypeError"),
        ('{"images": []}', None, "not COCO's captions (KeyError: 'annotations')"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"id": 1, "image_id": 1}]}', None, "'caption'"),
        ('{"images": [], "annotations": []}', None, "no captions of its images in it"),
        ("{}", "caption", "COCO's captions have no column caption; leave it out"),
    ],
)
def test_other_json_is_refused_in_one_line(tmp_path, content, name, said):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(UserError) as caught:
        read_prompts(str(tmp_path / "c.json"), name)
    assert said in str(caught.value) and "\n" not in str(caught.value)
