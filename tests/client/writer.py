"""A generative backbone that is easy to follow by hand: letters are tokens, states are sums of embeddings."""

import torch
from torch import nn

from feddat.models.generative import Questions, answer_features

LETTERS = "abcde"
START, END = 6, 7  # 0 is padding, 1 to 5 are the letters


class Writer:
    """Reads ``inputs["question"]`` (N, 1, d); a token's state is the question plus all embeddings up to that token."""

    name, family, feature_dim = "writer", "writer", 3

    def __init__(self, first_token_counts=1, seed=0):
        self.first_token_counts = first_token_counts
        generator = torch.Generator().manual_seed(seed)
        self.embeddings = torch.randn(8, 3, generator=generator, dtype=torch.float64)
        self.head = torch.randn(8, 3, generator=generator, dtype=torch.float64)
        self.model = nn.Identity()
        self.encoder = None
        self.read_count = 0

    def answer_tokens(self, answers):
        return [[START, *(1 + LETTERS.index(letter) for letter in answer.lower()), END] for answer in answers]

    def answer_text(self, tokens):
        return "".join(LETTERS[token - 1] for token in tokens if 0 < token < START)

    def answer_head(self):
        head = nn.Linear(3, 8, bias=False, dtype=torch.float64)
        head.load_state_dict({"weight": self.head})
        return head

    def read(self, inputs):
        self.read_count += 1
        return Questions(inputs["question"], torch.ones(inputs["question"].shape[:2]))

    def decode(self, questions, ids, mask):
        return questions.states + (self.embeddings[ids] * mask[..., None]).cumsum(dim=1)

    def features(self, inputs):
        return answer_features(self, inputs)

    def encode(self, views): ...
    def word_head(self, answers): ...
    def save(self, folder): ...
