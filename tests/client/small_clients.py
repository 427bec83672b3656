"""Small clients made in memory, and a comparison of two states."""

import numpy as np
import torch

from feddat.example import ClientData, Example

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230)}


def vqa_client(name, answers=("red", "green", "blue"), sizes=(11, 3, 6)):
    """Return a VQA client that is asked for the colour of noisy squares."""
    generator = np.random.default_rng(sum(name.encode()))

    def example(index, split):
        answer = answers[index % len(answers)]
        image = np.clip(generator.normal(COLOURS[answer], 40, (32, 32, 3)), 0, 255).astype(np.uint8)
        return Example(id=f"{split}-{index}", images=(image,), text="what is the color ?", answers={answer: 1.0})

    splits = [tuple(example(i, s) for i in range(size)) for s, size in zip("vte", sizes, strict=True)]
    return ClientData(name, "vqa", train=splits[0], validation=splits[1], test=splits[2], answers=answers)


def label_client(task):
    """Return a client whose labels follow the colour (SNLI-VE, VCR), or whether two colours are equal (NLVR2)."""
    generator = np.random.default_rng(0)
    names = list(COLOURS)

    def image(colour):
        return np.clip(generator.normal(COLOURS[colour], 20, (32, 32, 3)), 0, 255).astype(np.uint8)

    def example(i):
        first, second = names[i % 3], names[(i + i % 2) % 3]
        if task == "nlvr2":
            return Example(id=str(i), images=(image(first), image(second)), text="two red", label=int(i % 2 == 0))
        if task == "snli-ve":
            return Example(id=str(i), images=(image(first),), text="is the circle red", label=i % 3)
        choices = ("yes", "no", "two", "circle")
        return Example(id=str(i), images=(image(first),), text="what ?", choices=choices, label=i % 3)

    examples = tuple(example(i) for i in range(9))
    return ClientData(task, task, train=examples, validation=examples[:2], test=examples[:7])


def same(a, b):
    """Return whether two sets of tensors are exactly equal: by name if both have names, else in order."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return False
        b = [b[key] for key in a]
    a, b = (list(x.values()) if isinstance(x, dict) else list(x) for x in (a, b))
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
