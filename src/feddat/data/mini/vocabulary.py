"""The word list of the bundled model's tokenizer."""

from __future__ import annotations

import string

from feddat.data.mini.captions import FUNCTION_WORDS
from feddat.data.mini.concepts import COLOUR_NAMES, CONCEPTS, GROUPS, KINDS

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Words of downstream questions and of easy-VQA that occur in no pretraining text; their tokens are untrained.
_DOWNSTREAM_WORDS = (
    "alone another any anything are black both box brown can circle color compared contain corner covered different "
    "do equal every exactly fewer find first for four has have hidden how image images in least less lies living many "
    "more most next nothing number objects one only other pair parts pictures present question rectangle same second "
    "see shape shapes smaller stand stands than that their them there these they things third three tiles to together "
    "total triangle true two teal what where with zero"
).split()


def vocabulary() -> list[str]:
    """Return every token in index order: special tokens, letters and their continuations, whole words."""
    characters = [*string.ascii_lowercase, *string.digits]
    words = {
        *FUNCTION_WORDS,
        *COLOUR_NAMES,
        *GROUPS,
        *(concept.name for concept in CONCEPTS),
        *(kind for kinds in KINDS.values() for kind in kinds),
        *_DOWNSTREAM_WORDS,
    }
    # Any other lower-case word is spelt out letter by letter, so that users' own data never yields [UNK].
    pieces = [*characters, *(f"##{character}" for character in characters), *string.punctuation]
    return [*SPECIAL_TOKENS, *pieces, *sorted(words - set(characters))]
