"""Configuration of the bottleneck adapter."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import PeftConfig

PEFT_TYPE = "BOTTLENECK"
PLACEMENTS = ("auto", "output", "post_ln")


@dataclass
class BottleneckConfig(PeftConfig):
    """Bottleneck adapters A(h) = W_up · ReLU(W_down · h + b_down) + b_up of width d → d / reduction → d.

    Raises:
        ValueError: a value is out of range.
    """

    target_modules: str | list[str] | None = field(
        default=None,
        metadata={
            "help": "Sites: a regular expression over whole module names, or a list of name endings. "
            "Default: after every feed-forward block, for the model types in feddat.adapters.sites."
        },
    )
    reduction: int = field(default=16, metadata={"help": "The inner width is the site's width divided by this."})
    count: int = field(
        default=1,
        metadata={"help": "Number of parallel bottlenecks: the inner width is count * (site's width / reduction)."},
    )
    placement: str = field(
        default="auto",
        metadata={
            "help": "'output': y + A(y) on the site's output y. 'post_ln': LN(u + A(v) + input), for modules that add "
            "their residual and then normalise it (BERT). 'auto': 'post_ln' if the site is such a module, else "
            "'output'."
        },
    )
    init_std: float = field(
        default=0.02, metadata={"help": "Standard deviation of the initial weights; biases start at 0."}
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={
            "help": "Modules that train whole and are saved with the adapter. With a task_type such as SEQ_CLS, PEFT "
            "adds the task's head."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PEFT_TYPE
        if self.reduction < 1:
            raise ValueError(f"reduction must be at least 1, got {self.reduction}")
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")
        if self.placement not in PLACEMENTS:
            raise ValueError(f"placement must be one of {', '.join(PLACEMENTS)}, got {self.placement!r}")
        if self.init_std < 0:
            raise ValueError(f"init_std must not be negative, got {self.init_std}")
