"""Problems as prompt tokens, through the model's own chat template or a fixed one."""

from typing import Any

from padd_stages.lib.options.shared import DEFAULT_SYSTEM, PromptTemplate

# For tokenizers without a chat template (base models); the wording is ours.
PLAIN_TEMPLATE = "{system}\n\nProblem: {problem}\n\nSolution:"
PLAIN_TEMPLATE_NO_SYSTEM = "Problem: {problem}\n\nSolution:"

# Dr. GRPO's templates (arXiv 2503.20783, appendix; github.com/sail-sg/understand-r1-zero): for base models, whose
# answers depend on the template more than on the training.
FIXED_TEMPLATES: dict[PromptTemplate, tuple[str, str]] = {
    "qwen-math": (
        f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    "r1": (
        "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The "
        "Assistant first thinks about the reasoning process in the mind and then provides the User with the answer. "
        "The reasoning process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> "
        "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>.\nUser: ",
        "\nAssistant: <think>",
    ),
    "none": ("", ""),
}


def prompt_text(tokenizer: Any, problem: str, *, system: str = DEFAULT_SYSTEM, thinking: bool = False) -> str:
    """Render the prompt as text.

    Args:
        tokenizer: a transformers tokenizer. Without a chat template, ``PLAIN_TEMPLATE`` is used.
        problem: the problem alone.
        system: the instruction; it goes into the system turn, or, where the template refuses or ignores one,
            into the user turn after the problem. Empty: no instruction.
        thinking: passed as ``enable_thinking`` to templates with that argument (Qwen3).
    """
    if not tokenizer.chat_template:
        template = PLAIN_TEMPLATE if system else PLAIN_TEMPLATE_NO_SYSTEM
        return template.format(system=system, problem=problem)
    if not system:
        return _render(tokenizer, [{"role": "user", "content": problem}], thinking)
    turns = [{"role": "system", "content": system}, {"role": "user", "content": problem}]
    if _takes_system(tokenizer, turns, thinking):
        return _render(tokenizer, turns, thinking)
    return _render(tokenizer, [{"role": "user", "content": f"{problem}\n\n{system}"}], thinking)


def prompt_ids(
    tokenizer: Any,
    problem: str,
    *,
    system: str = DEFAULT_SYSTEM,
    thinking: bool = False,
    template: PromptTemplate = "chat",
) -> list[int]:
    """Tokenize :func:`prompt_text`, generation prompt included, or a fixed template around the problem.

    A chat template writes its own special tokens; the other ones get those that the tokenizer adds.
    """
    if template == "chat":
        text = prompt_text(tokenizer, problem, system=system, thinking=thinking)
    else:
        before, after = FIXED_TEMPLATES[template]
        text = before + problem + after
    chat = template == "chat" and tokenizer.chat_template
    return [int(token) for token in tokenizer(text, add_special_tokens=not chat)["input_ids"]]


def _render(tokenizer: Any, turns: list[dict[str, str]], thinking: bool) -> str:
    template = tokenizer.chat_template
    known = "enable_thinking" in (template if isinstance(template, str) else str(template))
    options = {"enable_thinking": thinking} if known else {}
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **options)


def _takes_system(tokenizer: Any, turns: list[dict[str, str]], thinking: bool) -> bool:
    """Return whether the template renders a system turn (some raise an error, some silently leave it out)."""
    from jinja2 import TemplateError

    try:
        return turns[0]["content"].strip() in _render(tokenizer, turns, thinking)
    except TemplateError:
        return False
