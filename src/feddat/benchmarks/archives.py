"""Sources of the datasets in the paper's federations: files to download, and files to request from the owners.

Addresses and terms come from the datasets' own pages. No page publishes checksums. An archive is checked by its own
checksums (every entry of a ZIP file has one) and by the reader, which must find its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Archive:
    """A file to download.

    Attributes:
        url: published address.
        megabytes: approximate size.
        into: folder, below the dataset's own, to unpack a ZIP file into; for other files, the path of the file.
    """

    url: str
    megabytes: float
    into: str = ""

    @property
    def packed(self) -> bool:
        """Whether the file is a ZIP file, which is unpacked."""
        return self.url.endswith(".zip")


@dataclass(frozen=True, slots=True)
class Published:
    """One dataset's archives.

    Attributes:
        terms: licence or terms of use, with the page that states them.
        archives: files to download.
        asks: data that users must request themselves: what it is, where to request it, and where it goes below the
            dataset's folder.
    """

    terms: str
    archives: tuple[Archive, ...] = ()
    asks: tuple[tuple[str, str, str], ...] = ()


_COCO = "http://images.cocodataset.org/zips"
_VQA = "https://s3.amazonaws.com/cvmlp/vqa"
_VIZWIZ = "https://vizwiz.cs.colorado.edu/VizWiz_final"
_GQA = "https://downloads.cs.stanford.edu/nlp/data/gqa"
_GITHUB = "https://raw.githubusercontent.com"
_AQUA = f"{_GITHUB}/noagarcia/ArtVQA/master/AQUA"
_COCO_TERMS = "annotations CC BY 4.0, photos under Flickr's terms of use (cocodataset.org)"
_COCO_2014 = (Archive(f"{_COCO}/train2014.zip", 13500), Archive(f"{_COCO}/val2014.zip", 6600))


def _abstract(split: str) -> tuple[Archive, ...]:
    name = split.capitalize()
    images = f"scene_img_abstract_v002_{split}2015"
    return (
        Archive(f"{_VQA}/abstract_v002/vqa/Questions_{name}_abstract_v002.zip", 2),
        Archive(f"{_VQA}/abstract_v002/vqa/Annotations_{name}_abstract_v002.zip", 8),
        Archive(f"{_VQA}/abstract_v002/scene_img/{images}.zip", 2500 if split == "train" else 1200, images),
    )


#: Folder below the root, as named in :mod:`feddat.benchmarks.paper` -> the published files of the dataset.
PUBLISHED: Mapping[str, Published] = {
    "aqua": Published(
        "AQUA: Apache-2.0 (github.com/noagarcia/ArtVQA); SemArt's paintings for research (noagarcia.github.io/SemArt)",
        (
            *(Archive(f"{_AQUA}/{split}.json", 12, f"{split}.json") for split in ("train", "val", "test")),
            Archive("https://researchdata.aston.ac.uk/id/eprint/380/1/SemArt.zip", 3000),
        ),
    ),
    "cocoqa": Published(
        f"COCO-QA: research (cs.toronto.edu/~mren/research/imageqa); COCO: {_COCO_TERMS}",
        (Archive("http://www.cs.toronto.edu/~mren/imageqa/data/cocoqa/cocoqa-2015-05-17.zip", 3), *_COCO_2014),
    ),
    "abstract-scenes": Published("CC BY 4.0 (visualqa.org/terms)", (*_abstract("train"), *_abstract("val"))),
    "vizwiz": Published(
        "CC BY 4.0 (vizwiz.org/tasks-and-datasets/vqa)",
        (
            Archive(f"{_VIZWIZ}/vqa_data/Annotations.zip", 11),
            Archive(f"{_VIZWIZ}/images/train.zip", 11000),
            Archive(f"{_VIZWIZ}/images/val.zip", 3400),
        ),
    ),
    "gqa": Published(
        "CC BY 4.0 (cs.stanford.edu/people/dorarad/gqa)",
        (Archive(f"{_GQA}/questions1.2.zip", 1400), Archive(f"{_GQA}/images.zip", 20300)),
    ),
    "clove": Published(
        "CLOVE: github.com/showlab/CLVQA; Visual Genome's pictures CC BY 4.0",
        (
            Archive("https://cs.stanford.edu/people/rak248/VG_100K_2/images.zip", 9700),
            Archive("https://cs.stanford.edu/people/rak248/VG_100K_2/images2.zip", 5470),
        ),
        (("its questions, on a shared drive", "github.com/showlab/CLVQA", "json/scene and json/function"),),
    ),
    "vqav2": Published(
        f"VQA: CC BY 4.0 (visualqa.org/terms); COCO: {_COCO_TERMS}",
        (
            *(
                Archive(f"{_VQA}/mscoco/vqa/v2_{what}_{split}_mscoco.zip", size)
                for split in ("Train", "Val")
                for what, size in (("Questions", 8), ("Annotations", 21))
            ),
            *_COCO_2014,
        ),
    ),
    "nlvr2": Published(
        "questions CC BY 4.0 (github.com/lil-lab/nlvr)",
        tuple(
            Archive(f"{_GITHUB}/lil-lab/nlvr/master/nlvr2/data/{split}.json", 30, f"nlvr2/data/{split}.json")
            for split in ("train", "dev", "test1")
        ),
        (("the photos, by a form", "lil.nlp.cornell.edu/nlvr", "images"),),
    ),
    "snli-ve": Published(
        "SNLI-VE: github.com/necla-ml/SNLI-VE; Flickr30k for non-commercial research",
        (),
        (
            ("the pairs, made by its generator", "github.com/necla-ml/SNLI-VE", "snli_ve_{train,dev,test}.jsonl"),
            ("Flickr30k, by a form", "shannon.cs.illinois.edu/DenotationGraph", "flickr30k-images"),
        ),
    ),
    "vcr": Published(
        "for non-commercial research, after agreeing to its terms (visualcommonsense.com/download)",
        (),
        (("questions and stills", "visualcommonsense.com/download", "train.jsonl, val.jsonl and vcr1images"),),
    ),
}
