"""A word-level tokenizer for the toy problems: a word, a digit or a sign is one token.

A token carries the space in front of it (" 4" opens a number, "4" goes on with it), as byte-level vocabularies do.
So decoding is plain concatenation: the digits of a number come back together, two numbers never merge, and
every text made of known pieces comes back exactly.
"""

import random
import re

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from padd_stages.toy.problems import KINDS

PAD, BOS, EOS, UNKNOWN = "<|pad|>", "<|begin|>", "<|end|>", "<|unknown|>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
SPECIAL = (PAD, BOS, EOS, UNKNOWN, USER, ASSISTANT)

# One token: a word, a digit, the opening of the boxed answer or a sign, with at most one space in front.
PIECE = r" ?(?:[A-Za-z]+|[0-9]|\\boxed\{|[^A-Za-z0-9\s])|\s"

# The system turn is dropped: the models know some eighty words, none of which an instruction is made of.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_SIGNS = ".,?=+-*/^'(){}"
_SAMPLES_PER_KIND = 400  # enough draws for every word of a template to turn up; a test checks it


def pieces(text: str) -> list[str]:
    """Split a text into tokens; their concatenation is the text."""
    return re.findall(PIECE, text)


def _known_pieces() -> list[str]:
    """Return every token without a special meaning, in a fixed order: words and signs, with and without a space."""
    rng = random.Random(0)
    makers = [make for kinds in KINDS.values() for make in kinds]
    texts = [make(rng).problem for make in makers for _ in range(_SAMPLES_PER_KIND)]
    words = {word for text in texts for word in re.findall("[A-Za-z]+", text)} | {"so"}
    bare = sorted(words | set("0123456789") | set(_SIGNS) | {"\\boxed{"})
    return [" ", "\n", *bare, *(" " + piece for piece in bare)]


def build_tokenizer(order_seed: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer with its vocabulary in an order of its own.

    Args:
        order_seed: shuffles the ids; two seeds give the same tokens under different ids, which is what makes the
            mapping between a teacher's and a student's vocabulary a thing to get right.
    """
    tokens = [*SPECIAL, *_known_pieces()]
    random.Random(order_seed).shuffle(tokens)
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=128,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
