"""A small byte-level BPE tokenizer in CLIP's format, and the prompts that train the painter.

Any text can be tokenised: the vocabulary holds all 256 bytes, each also as the end of a word (Sennrich et al. 2016).
"""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
MERGES = 600  # at most; the corpus may be spelled out before

TEMPLATES = {
    "photo": ("photo", "a photo", "a photo of {}", "photograph of {}", "a film still of {}", "{}, photo"),
    "oil painting": (
        "oil painting",
        "an oil painting",
        "an oil painting of {}",
        "{}, oil painting",
        "oil on canvas, {}",
        "{} painted in oil, thick brush strokes",
        "impasto oil painting of {}",
    ),
    "ink drawing": (
        "ink drawing",
        "an ink drawing",
        "an ink drawing of {}",
        "{}, ink drawing",
        "pen and ink drawing of {}",
        "{} drawn in ink, hatching",
        "ink sketch of {}",
    ),
    "mosaic": (
        "mosaic",
        "a mosaic",
        "a mosaic of {}",
        "{}, mosaic",
        "a tile mosaic of {}",
        "{} made of mosaic tiles",
        "roman mosaic of {}",
    ),
    "watercolour": (
        "watercolour",
        "watercolor",
        "a watercolour of {}",
        "a watercolor painting of {}",
        "{}, watercolour",
        "{}, watercolor",
        "watercolour painting of {}",
        "aquarelle, watercolour wash of {}",
    ),
}
SUBJECT_LIST = (
    "a person|a woman|a man|two people|a child|a face|a portrait|a crowd|a dog|a cat|a horse|a bird|a rabbit|a flower|"
    "a garden|a tree|a forest|grass|a meadow|a mountain|the sea|a river|a lake|the sky|clouds|a sunset|snow|a street|"
    "a city|a house|a room|a table|a chair|a car|a boat|a train|a bridge|a bottle|fruit|food|a shirt|a dress|shoes|"
    "hands|a wall|a window|a battle|a rocket|night|a landscape|a still life"
)
SUBJECTS = SUBJECT_LIST.split("|")
QUALITIES = (
    "masterpiece",
    "highly detailed",
    "beautiful",
    "soft light",
    "vivid colours",
    "best quality",
    "high quality",
)
ART_WORDS = (
    "painting painted picture drawing drawn sketch brush stroke strokes canvas paper pigment colour color colours "
    "colors bright dark light shadow soft hard sharp warm cold red orange yellow green blue purple pink brown "
    "black white grey gray impressionist classical modern abstract realistic cartoon anime style by artist museum "
    "in the of with and on at from blurry low quality ugly deformed bad watermark text noise cinematic morning "
    "evening summer winter spring autumn old young small large beautiful tile tiles stone glass line lines "
    "hatching pen pencil charcoal pastel"
)


def random_prompt(style: str, generator: np.random.Generator) -> str:
    """A prompt for a style of TEMPLATES: in half the cases its bare name, else a template with a random subject."""
    templates = TEMPLATES[style]
    bare = [template for template in templates if "{}" not in template]
    if generator.random() < 0.5:
        return bare[generator.integers(len(bare))]
    prompt = templates[generator.integers(len(templates))].format(random_subject(generator))
    if generator.random() < 0.15:
        prompt += ", " + QUALITIES[generator.integers(len(QUALITIES))]
    return prompt


def random_subject(generator: np.random.Generator) -> str:
    return SUBJECTS[generator.integers(len(SUBJECTS))]


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte value in GPT-2's and CLIP's vocabularies."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """The first merges of byte-pair encoding over weighted words; ties go to the alphabetically first pair."""
    letters = byte_letters()
    spelled = {}
    for word, weight in words.items():
        first, last = word.encode()[:-1], word.encode()[-1]
        spelled[(*(letters[byte] for byte in first), letters[last] + "</w>")] = weight
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for symbols, weight in spelled.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += weight
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = {merge_pair(symbols, best): weight for symbols, weight in spelled.items()}
    return merges


def merge_pair(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The symbols with every occurrence of the pair joined."""
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)


def corpus() -> Counter[str]:
    """Words of the templates, subjects and art words with their weights."""
    text = " ".join(template.replace("{}", "") for templates in TEMPLATES.values() for template in templates)
    words = Counter({word.strip(","): 20 for word in text.lower().split() if word.strip(",")})
    words.update(word for subject in SUBJECTS for word in subject.split())
    words.update(word for quality in QUALITIES for word in quality.split())
    words.update(ART_WORDS.split())
    return words


def vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    letters = byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def build_tokenizer() -> CLIPTokenizer:
    """The painter's tokenizer; the same on every call."""
    merges = learn_merges(corpus(), MERGES)
    return CLIPTokenizer(vocab=vocabulary(merges), merges=merges, model_max_length=LENGTH)


def save_tokenizer(folder: Path) -> None:
    """Write the tokenizer, with the vocab.json and merges.txt that older readers need."""
    build_tokenizer().save_pretrained(folder)
    merges = learn_merges(corpus(), MERGES)
    (folder / "vocab.json").write_text(json.dumps(vocabulary(merges), ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
