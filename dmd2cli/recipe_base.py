"""What every part of a recipe is, and the kinds of numbers in it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Interval = Annotated[int, Field(gt=0)] | Literal["auto"] | None
"""Steps between two measurements; null = none, auto = often enough for the length of the run."""


class Part(BaseModel):
    """Any part of a recipe; remembers where each key was written, for later messages."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    _places: dict[str, str] = PrivateAttr(default_factory=dict)

    def model_post_init(self, context: Any) -> None:
        self._places = context or {}

    @property
    def places(self) -> dict[str, str]:
        """Dotted key of the whole recipe -> "FILE:LINE" or the override that set it."""
        return self._places

    @property
    def options(self) -> dict[str, Any]:
        """The keys that belong to the plugin; empty for parts that name none."""
        return dict(self.model_extra or {})


class Use(Part, extra="allow"):
    """A plugin by registered name, with its options; a bare string is a name without options."""

    use: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value
