"""Configuration of soft prompts at a stack of layers."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import PeftConfig

PEFT_TYPE = "SOFT_PROMPT"


@dataclass
class SoftPromptConfig(PeftConfig):
    """Trained tokens that enter before the first transformer layer and are removed after the last one.

    Raises:
        ValueError: a value is out of range.
    """

    target_modules: str | list[str] | None = field(
        default=None, metadata={"help": "The module around all transformer layers: a regular expression, or its name."}
    )
    tokens: int = field(default=5, metadata={"help": "Tokens for each input."})
    inputs: list[str] = field(
        default_factory=lambda: ["text"],
        metadata={
            "help": "Inputs that get tokens. With more than one, embeddings.token_type_embeddings next to the stack "
            "has one row for each."
        },
    )
    causal: bool = field(default=False, metadata={"help": "Whether a token sees only the tokens before it."})
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
        if self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")
        if not self.inputs:
            raise ValueError("inputs must name at least one input")
