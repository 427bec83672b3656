"""Models of the Hub that are known to work, with their sizes, so that nothing has to be downloaded to compare them.

Parameter counts come from the published configurations (``tests/models/published_sizes.py``). File sizes and memory
are computed from them; ``feddat models pull`` shows the sizes on the Hub. Other repositories of the same families load
in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Model that hints use as an example: the one of the paper.
EXAMPLE = "dandelin/vilt-b32-mlm"
#: Bytes per trained parameter: its value, its gradient and AdamW's two moments in float32. Global and local adapter
#: train; the anchor is a third adapter of the same size, but frozen.
_TRAINING = 16


@dataclass(frozen=True, slots=True)
class Known:
    """A model of the Hub.

    Attributes:
        family: ``model_type`` in its configuration.
        licence: licence named in its card; the card has the binding terms.
        parameters: parameters of the frozen backbone, in millions.
        trained: parameters that FedDAT trains with the default adapter and 100 answers, in millions.
        file: size of its safetensors in gigabytes.
        note: further information.
        gflop: billions of operations per question of a training step with one adapter: a pass forward and one backward;
            ``None`` if not measured (docs/benchmarks.md).
    """

    family: str
    licence: str
    parameters: float
    trained: float
    file: float
    note: str = ""
    gflop: float | None = None

    @property
    def least_memory(self) -> float:
        """Return the gigabytes for float32 weights and for training state, without activations and libraries."""
        return (4 * self.parameters + _TRAINING * self.trained) / 1000


KNOWN: dict[str, Known] = {
    EXAMPLE: Known("vilt", "Apache-2.0", 111.6, 3.1, 0.54, "the paper's; safetensors by the Hub's converter", 51),
    "Salesforce/blip-vqa-base": Known("blip", "BSD-3-Clause", 360.6, 25.9, 1.5, "writes its answers"),
    "openai/clip-vit-base-patch32": Known("clip", "see its card", 151.3, 7.6, 0.6),
    "google/siglip-base-patch16-224": Known("siglip", "Apache-2.0", 203.2, 14.7, 0.8),
    "HuggingFaceTB/SmolVLM-256M-Instruct": Known("idefics3", "Apache-2.0", 256.5, 2.5, 0.51, "writes its answers"),
    "HuggingFaceTB/SmolVLM-Instruct": Known("idefics3", "Apache-2.0", 2246.3, 25.3, 4.5, "writes its answers"),
    "Qwen/Qwen3-VL-2B-Instruct": Known("qwen3_vl", "Apache-2.0", 2127.5, 29.5, 4.3, "writes its answers"),
    "Qwen/Qwen2.5-VL-3B-Instruct": Known("qwen2_5_vl", "see its card", 3754.6, 37.9, 7.5, "writes its answers"),
    "google/paligemma2-3b-pt-224": Known("paligemma", "Gemma", 3032.2, 34.6, 6.1, "gated: ask on its page"),
    "llava-hf/llava-1.5-7b-hf": Known("llava", "Llama 2", 7063.4, 134.5, 14.1, "writes its answers"),
}
#: Models published elsewhere, which must be converted once: name -> instructions.
ELSEWHERE: dict[str, str] = {
    "ALBEF": "https://storage.googleapis.com/sfr-pcl-data-research/ALBEF/ALBEF.pth; `feddat convert ALBEF.pth "
    "--bert google-bert/bert-base-uncased --out albef`",
}
