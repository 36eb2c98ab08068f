"""Checks of the method's options before anything is loaded (docs/METHOD.md, sections 4 and 5)."""

from padd_artifacts.errors import PaddError, UsageError
from padd_stages.lib.compat.peft import require_lora
from padd_stages.lib.models.loading import is_moe
from padd_stages.lib.sampling.vllm import check_engine
from padd_stages.train.options import TrainInputs, TrainOptions

# ten times the default: what factors need against whole matrices by "LoRA Without Regret" (Thinking Machines, 2025)
LEAST_LORA_RATE = 1e-5
WIDEST_GSPO_RANGE = 0.05  # chosen: a hundred times the range of arXiv 2507.18071, a quarter of GRPO's


def check_method(inputs: TrainInputs, options: TrainOptions) -> None:
    """Refuse options that would silently do nothing, or that contradict each other.

    Raises:
        UsageError: the first one found, with its cure.
        PaddError: the student is dense and the method needs a router.
    """
    if options.kd_weight > 0 and inputs.teacher is None:
        raise UsageError(
            f"--kd-weight {options.kd_weight} distils from a teacher and none is given; "
            "name one with --teacher, or take --kd-weight 0."
        )
    moving = _on_moved_routing(options)
    if moving and options.num_iterations * options.mini_batches < 2:
        raise UsageError(
            f"{', '.join(moving)} with --num-iterations {options.num_iterations} does nothing, since routing has not "
            f"drifted before the second update; take --num-iterations 2 or {', '.join(moving.values())}."
        )
    _check_weights(options)
    _check_lora(options)
    check_engine(options)
    if options.engine == "vllm" and options.trainable == "lora":
        raise UsageError(
            "--trainable lora with --engine vllm: factors are not sent to the engine, which would sample from the "
            "student without them; take --trainable experts, or --engine transformers."
        )
    if (missing := _trained_in_moe(options)) and not is_moe(inputs.student):
        raise PaddError(
            f"{missing} trains what {inputs.student} does not have, since it is dense; take --trainable all, or lora "
            "with --lora-target attention alone."
        )
    routed = moving | _on_routers(options)
    if routed and not is_moe(inputs.student):
        raise PaddError(
            f"{', '.join(routed)} acts on a router and {inputs.student} is dense, so it cannot; "
            f"name an MoE student, or take {', '.join(routed.values())} (--preset grpo takes none of them)."
        )


def likely_mistakes(options: TrainOptions) -> list[str]:
    """Return warnings about options that are allowed and probably not meant."""
    found: list[str] = []
    widest = max(options.epsilon or 0.0, options.epsilon_high or 0.0)
    if options.loss_type == "gspo" and widest > WIDEST_GSPO_RANGE:
        found.append(
            f"--loss-type gspo clips one ratio a response and its own range is 3e-4 / 4e-4, so with {widest} it will "
            "hardly ever clip at usual learning rates; take --epsilon 3e-4 --epsilon-high 4e-4."
        )
    if options.top_p < 1:
        found.append(
            f"--top-p {options.top_p:g} samples from a part of the vocabulary, while ratios and log-probabilities are "
            "of all of it, so that every ratio is biased; take --top-p 1."
        )
    if options.trainable == "lora" and options.learning_rate < LEAST_LORA_RATE:
        found.append(
            f"--trainable lora with --learning-rate {options.learning_rate:g}: factors need about ten times the "
            f"learning rate of whole matrices, so little may be learnt; try {LEAST_LORA_RATE:g} or more."
        )
    return found


def _trained_in_moe(options: TrainOptions) -> str | None:
    """Return the option that trains experts or routers and nothing else would do."""
    if options.trainable == "lora":
        return next((f"--lora-target {name}" for name in options.lora_target if name != "attention"), None)
    return None if options.trainable == "all" else f"--trainable {options.trainable}"


def _check_lora(options: TrainOptions) -> None:
    if options.trainable == "lora":
        require_lora()
        if not options.lora_target:
            raise UsageError("--trainable lora without a --lora-target trains nothing; name one.")
        return
    fields = type(options).model_fields
    for name in ("lora_r", "lora_alpha", "lora_target"):
        if getattr(options, name) != fields[name].default:
            raise UsageError(
                f"--{name.replace('_', '-')} is of --trainable lora and does nothing with --trainable "
                f"{options.trainable}; leave it out, or take --trainable lora."
            )


def _on_moved_routing(options: TrainOptions) -> dict[str, str]:
    """Return the active options that need routing to have moved, each with the option that turns it off."""
    found = {
        f"--drift-lambda {options.drift_lambda}": ("--drift-lambda 0", options.drift_lambda > 0),
        f"--router-shift {options.router_shift}": ("--router-shift off", options.router_shift != "off"),
        f"--router-replay {options.router_replay}": ("--router-replay off", options.router_replay == "old"),
    }
    return {name: off for name, (off, is_on) in found.items() if is_on}


def _on_routers(options: TrainOptions) -> dict[str, str]:
    """Return the active options that need a router, moved or not, each with the option that turns it off."""
    found = {"--eta": options.eta, "--gamma": options.gamma}
    active = {f"{flag} {value}": f"{flag} 0" for flag, value in found.items() if value > 0}
    if options.router_aux_loss_coef > 0:
        active[f"--router-aux-loss-coef {options.router_aux_loss_coef}"] = "--router-aux-loss-coef 0"
    if options.stable_moe:
        active[f"--stable-moe {options.stable_moe}"] = "--stable-moe 0"
    if options.router_replay == "rollout":
        active["--router-replay rollout"] = "--router-replay off"
    return active


def _check_weights(options: TrainOptions) -> None:
    shift = options.router_shift
    if shift != "off" and options.drift_lambda > 0:
        raise UsageError(
            f"--router-shift {shift} and --drift-lambda {options.drift_lambda} both weigh the ratio by how far routing "
            "moved, so neither method would be what it says; take --drift-lambda 0 (rspo) or --router-shift off (padd)."
        )
    if shift == "after-clip" and options.loss_type != "gmpo":
        raise UsageError(
            f"--router-shift after-clip is defined for --loss-type gmpo and not for {options.loss_type}; "
            "take --loss-type gmpo, or --router-shift before-clip."
        )
    if options.kd_as == "advantage":
        _check_token_advantages(options)
    if options.rollout_correction in ("tis", "icepop") and options.loss_type in ("gspo", "gmpo"):
        raise UsageError(
            f"--rollout-correction {options.rollout_correction} weighs tokens and --loss-type {options.loss_type} has "
            "one term a response; take --rollout-correction mis."
        )
    if (
        options.stable_moe
        and (
            others := {
                f"--router-replay {options.router_replay}": options.router_replay != "off",
                f"--eta {options.eta}": options.eta > 0,
                f"--gamma {options.gamma}": options.gamma > 0,
                f"--engine {options.engine}": options.engine != "transformers",
            }
        )
        and any(others.values())
    ):
        named = next(name for name, is_on in others.items() if is_on)
        raise UsageError(
            f"--stable-moe fixes the routes by words and {named} has no part in that, so neither would be what it "
            "says; leave one of them out."
        )
    if shift != "off" and options.trace_dtype == "fp16":
        raise UsageError(
            f"--router-shift {shift} takes logarithms, for which small probabilities are too coarse with "
            "--trace-dtype fp16; take --trace-dtype fp32."
        )
    if options.drift_grad and options.drift_lambda == 0:
        raise UsageError(
            "--drift-grad lets a gradient through a drift weight that --drift-lambda 0 switches off, so it does "
            "nothing; leave it out, or raise --drift-lambda."
        )


def _check_token_advantages(options: TrainOptions) -> None:
    """Refuse what --kd-as advantage has no place for."""
    cures = {
        "--kd-weight 0": (options.kd_weight == 0, "distils nothing", "--kd-weight above 0"),
        f"--phi {options.phi}": (
            options.phi != "fixed",
            "sets a temperature that nothing has",
            "--phi fixed",
        ),
        f"--kl {options.kl}": (
            options.kl != "reverse",
            "names a KL that samples of the student do not estimate",
            "--kl reverse",
        ),
        f"--loss-type {options.loss_type}": (
            options.loss_type in ("gspo", "gmpo"),
            "has one term a response and no token's advantage",
            "--loss-type dapo",
        ),
    }
    for name, (is_on, why, cure) in cures.items():
        if is_on:
            raise UsageError(f"--kd-as advantage with {name}, which {why}; take {cure}.")
