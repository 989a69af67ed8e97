"""How long, how large, on what: the `run` of a recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dmd2cli.recipe_base import NotNegative, Part, Positive, PositiveFloat


class Keep(Part):
    """Which checkpoints stay; a bare number is `last`. The best one by `by` is never deleted."""

    last: Positive = Field(default=3, description="the newest")
    best: NotNegative = Field(default=1, description="the best by `by`; 0 = none")
    by: str | None = Field(default=None, description="a logged value; the lowest is best, such as critic/denoising")
    every: Positive | None = Field(default=None, description="those at multiples of so many steps; null = none")

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return {"last": value} if isinstance(value, int) and not isinstance(value, bool) else value


class Run(Part):
    """How long, how large, and on what; every *_every in steps."""

    steps: Positive = Field(description="critic updates")
    batch: Positive = Field(description="samples per update, over all ranks and micro-batches")
    micro_batch: Positive | None = Field(None, description="samples per backward pass of a rank; null = all it has")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    tf32: bool = Field(True, description="float32 products in TF32 on GPUs that have it")
    teacher_weights: Literal["fp32", "bf16"] = Field("fp32", description="what the frozen teacher is stored in")
    checkpointing: bool | Literal["selective"] = Field(
        False, description="less memory: activations of blocks are computed again; selective = all but their products"
    )
    compile: bool = Field(False, description="torch.compile, block by block")
    channels_last: bool = Field(False, description="convolutions in the memory order that tensor cores read")
    optimiser: Literal["fused", "foreach", "8bit"] = Field("fused", description="AdamW: one kernel, several, or 8-bit")
    offload: tuple[Literal["teacher", "optimiser"], ...] = Field((), description="what waits in the CPU's memory")
    parallel: Literal["auto", "none", "replicate", "shard", "hybrid"] = Field("auto", description="over several ranks")
    shard_size: Positive | None = Field(None, description="ranks that share one copy in hybrid; null = those of a node")
    timeout: PositiveFloat = Field(10.0, description="minutes after which a rank that does not answer ends the job")
    clip: PositiveFloat | None = Field(10.0, description="largest gradient norm; null = no clipping")
    seed: int = Field(0, ge=0)
    threads: Positive | None = Field(None, description="CPU threads of a rank; null = its share of the usable cores")
    log_every: Positive = 50
    save_every: Positive = 500
    save_async: bool = Field(True, description="checkpoints are written while training goes on, from a copy in memory")
    preview_every: Positive | None = Field(500, description="pictures of the student; null = none")
    keep: Keep = Field(Keep(), description="checkpoints that stay; a number = the newest so many")
    time_limit: PositiveFloat | None = Field(None, description="minutes")
    device: str = "auto"

    @field_validator("micro_batch")
    @classmethod
    def _divides(cls, micro_batch: int | None, info: ValidationInfo) -> int | None:
        batch = info.data.get("batch")
        if micro_batch and batch and batch % micro_batch:
            raise ValueError(f"must divide run.batch, and {batch} is no multiple of {micro_batch}")
        return micro_batch
