"""The teacher's hidden states at a student's tokens, for the distillation losses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from padd_artifacts.errors import PaddError
from padd_stages.lib.data.sequences import TokenSequence, collate
from padd_stages.lib.models.expert_clusters import ExpertClusters
from padd_stages.lib.models.loading import LanguageModel
from padd_stages.lib.models.policy import Head, Policy
from padd_stages.lib.models.vocabulary import VocabularyMap, map_vocabularies
from padd_stages.lib.objectives.chunked import chunked_kl, chunked_logprobs


@dataclass(frozen=True)
class TeacherStates:
    """The teacher's states where it predicts the C comparable of a batch's M response tokens.

    Attributes:
        hidden: (C, D_T) hidden states.
        comparable: (M,) bool.
        beyond: how many of the others lie beyond the teacher's position limit.
        activations: (L, C, N) fp32, mean |activation| of the cluster of neurons that each of the student's experts
            comes from; None unless clusters are given.
    """

    hidden: Tensor
    comparable: Tensor
    beyond: int
    activations: Tensor | None = None


def teacher_input(
    sequence: TokenSequence, teacher_prompt: tuple[int, ...], vocabulary: VocabularyMap, max_positions: int
) -> tuple[TokenSequence, list[bool], int]:
    """Translate a student's sequence into the teacher's input (docs/METHOD.md, section 4).

    That is the teacher's own prompt, then the response's tokens in its vocabulary. A token that it does not know is
    dropped from its input; that token, and every token beyond the teacher's position limit, is not comparable.

    Returns:
        The teacher's sequence; for each response token of the student whether it can be compared; and how many cannot
        because of the position limit.
    """
    ids, known = vocabulary.translate(list(sequence.response_ids))
    room = max(max_positions - len(teacher_prompt), 0)
    ids = ids[:room]
    comparable, seen = [], 0
    for is_known in known:
        seen += is_known
        comparable.append(is_known and seen <= room)
    return TokenSequence(teacher_prompt, tuple(ids)), comparable, sum(known) - sum(comparable)


class Teacher:
    """A frozen dense teacher with the map from the student's vocabulary to its own.

    It may be on another device than the student, or sharded: its results are on the student's device, whole.
    """

    def __init__(self, teacher: LanguageModel, student: LanguageModel, policy: Policy | None = None) -> None:
        """Check the teacher and map the vocabularies; ``policy`` is the teacher's, if it is sharded already."""
        self.language_model = teacher
        self.policy = policy or Policy(teacher.model).eval().requires_grad_(False)
        self.policy.verify()
        self.device = student.model.get_output_embeddings().weight.device
        self.head = self.policy.head.to(self.device)  # a sharded one is whole since `verify` has run it
        student_rows = student.model.get_output_embeddings().weight.shape[0]
        self.vocabulary: VocabularyMap = map_vocabularies(
            student.tokenizer, teacher.tokenizer, student_rows, self.head.weight.shape[0], teacher.eos_ids
        )

    def ends_note(self) -> str | None:
        """Return a note if the student's end of a response is compared with another word of the teacher."""
        if self.vocabulary.ends is None:
            return None
        student, teacher = self.vocabulary.ends
        return (
            f"the student ends responses with {student} and the teacher with {teacher}; the two are compared"
        )

    def count_comparable(self, sequences: list[TokenSequence], prompts: list[tuple[int, ...]]) -> int:
        """Count the response tokens that can be compared, without running the teacher: the normaliser of L_KD."""
        return sum(sum(comparable) for _, comparable, _ in self._inputs(sequences, prompts))

    def shares(self, sequences: list[TokenSequence], prompts: list[tuple[int, ...]]) -> tuple[float, float]:
        """Return the shares of response tokens that can be compared, and that lie beyond the position limit."""
        counts = [(len(c), sum(c), beyond) for _, c, beyond in self._inputs(sequences, prompts)]
        tokens, compared, beyond = (sum(column) for column in zip(*counts))
        return compared / tokens, beyond / tokens

    def _inputs(
        self, sequences: list[TokenSequence], prompts: list[tuple[int, ...]]
    ) -> list[tuple[TokenSequence, list[bool], int]]:
        limit = self.language_model.max_positions
        return [
            teacher_input(sequence, prompt, self.vocabulary, limit)
            for sequence, prompt in zip(sequences, prompts, strict=True)
        ]

    @torch.no_grad()
    def states(
        self,
        sequences: list[TokenSequence],
        prompts: list[tuple[int, ...]],
        clusters: ExpertClusters | None = None,
    ) -> TeacherStates:
        """Run the teacher, once, on the student's responses behind its own prompts.

        Args:
            sequences: the student's, in batch order.
            prompts: the teacher's prompt of each.
            clusters: those whose activations are returned beside the hidden states.
        """
        inputs = self._inputs(sequences, prompts)
        comparable, beyond = [flag for _, flags, _ in inputs for flag in flags], sum(b for _, _, b in inputs)
        batch = collate(
            [own for own, _, _ in inputs], self.language_model.pad_id, self.policy.head.weight.device
        )
        arguments = (batch.input_ids, batch.attention_mask, batch.select, lambda states, _: states)
        mask = torch.tensor(comparable, device=self.device)
        if clusters is None:
            return TeacherStates(self.policy(*arguments).to(self.device), mask, beyond)
        with clusters.record(self.language_model.model, batch.select) as seen:
            hidden = self.policy(*arguments)
        return TeacherStates(hidden.to(self.device), mask, beyond, clusters.by_expert(seen, self.device))

    def check_compared(self, compared: float, beyond: float) -> str | None:
        """Return a warning if the teacher's positions end before the student's responses do.

        Args:
            compared, beyond: shares of response tokens: those compared, and those beyond the teacher's position limit.

        Raises:
            PaddError: nothing can be compared.
        """
        limit = self.language_model.max_positions
        cure = "--teacher-max-positions and --teacher-rope-theta let it read more, where it was made for that"
        if not compared:
            reason = f"all lie beyond its {limit:,} positions; {cure}" if beyond else "it knows none of them"
            raise PaddError(
                "no response token can be compared with the teacher's distribution, so nothing would be distilled: "
                f"{reason}."
            )
        if not beyond:
            return None
        return (
            f"{beyond:.1%} of the response tokens lie beyond the teacher's {limit:,} positions and are not distilled "
            f"on; {cure}."
        )

    @torch.no_grad()
    def logprobs(self, states: TeacherStates, targets: Tensor, temperature: float) -> Tensor:
        """Return the teacher's log-probabilities of the student's tokens, over all of its own words.

        Args:
            targets: (M,) the student's ids of the response tokens.

        Returns:
            (C,) of the comparable ones, nats.
        """
        words = self.vocabulary.to_teacher.to(targets.device)[targets[states.comparable]]
        head = self.head
        return chunked_logprobs(
            states.hidden, head.weight, words, temperature, bias=head.bias, softcap=head.softcap
        )[0]

    def kl(
        self,
        hidden: Tensor,
        head: Head,
        states: TeacherStates,
        *,
        weight: Tensor,
        tau_teacher: Tensor,
        tau_student: Tensor,
        direction: str,
        clamp: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the weighted sum of KL over comparable tokens, over the words that both models share.

        Args:
            hidden: (M, D_S) the student's hidden states, scaled for its head.
            weight, tau_teacher, tau_student: (M,); entries of tokens that cannot be compared are ignored.
            clamp: most that a token's KL counts, in nats.

        Returns:
            The loss, and the per-token KL of the C comparable tokens, not clamped.
        """
        keep = states.comparable
        index, other = self.vocabulary.student_index, self.vocabulary.teacher_index
        loss, metrics = chunked_kl(
            hidden[keep],
            head.weight,
            states.hidden,
            self.head.weight,
            weight=weight[keep],
            tau_teacher=tau_teacher[keep],
            tau_student=tau_student[keep],
            direction=direction,  # type: ignore[arg-type]
            student_index=None if index is None else index.to(hidden.device),
            teacher_index=None if other is None else other.to(hidden.device),
            student_bias=head.bias,
            teacher_bias=self.head.bias,
            student_softcap=head.softcap,
            teacher_softcap=self.head.softcap,
            clamp=clamp,
        )
        return loss, metrics["kl"]
