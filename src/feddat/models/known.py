"""Models of the Hub that are known to fit: their sizes before anything is asked or downloaded.

Parameters are counted from the published configurations (``tests/models/published_sizes.py``); sizes of files and
memory are computed from them, and ``feddat models pull`` shows the Hub's own sizes. Other repositories of the same
families load alike.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The model that hints name: the paper's own.
EXAMPLE = "dandelin/vilt-b32-mlm"
#: Bytes per trained parameter for its value, its gradient and AdamW's two moments in float32; the values of the global
#: and the local adapter are trained, the anchor is a third as many of frozen ones.
_TRAINING = 16


@dataclass(frozen=True, slots=True)
class Known:
    """A model of the Hub.

    Attributes:
        family: ``model_type`` in its configuration.
        licence: as its card says; for what matters read the card.
        parameters: of the frozen backbone, in millions.
        trained: by FedDAT with the default adapter and 100 answers, in millions.
        file: gigabytes of its safetensors.
        note: what else is to be known.
        gflop: billions of operations of a training step per question: with both adapters and with one, where measured
            (docs/benchmarks.md).
    """

    family: str
    licence: str
    parameters: float
    trained: float
    file: float
    note: str = ""
    gflop: tuple[float, float] | None = None

    @property
    def least_memory(self) -> float:
        """Return the gigabytes that weights in float32 and what trains take: without activations and libraries."""
        return (4 * self.parameters + _TRAINING * self.trained) / 1000


KNOWN: dict[str, Known] = {
    EXAMPLE: Known(
        "vilt", "Apache-2.0", 111.6, 3.1, 0.54, "the paper's; safetensors by the Hub's converter", (100, 51)
    ),
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
#: What is published elsewhere, and has to be converted once: name -> how.
ELSEWHERE: dict[str, str] = {
    "ALBEF": "https://storage.googleapis.com/sfr-pcl-data-research/ALBEF/ALBEF.pth; `feddat convert ALBEF.pth "
    "--bert google-bert/bert-base-uncased --out albef`",
}
