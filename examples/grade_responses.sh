#!/bin/sh
# Grades what another engine produced. No model is loaded, and torch is not imported.
#
#   sh examples/grade_responses.sh [RESPONSES [OUT]]
#
# A row of RESPONSES has id, answer (text, a number, or a list: any of them) and response; rows of
# one id are samples of one problem. It may have problem, subject, level, tokens and truncated.
set -eu
responses=${1:-"$(dirname "$0")/responses.jsonl"}
out=${2:-runs/eval/responses}

padd eval --responses "$responses" --out "$out"

# One verdict a row, in the file's order: id, extracted, verdict, reason, score.
cat "$out/verdicts.jsonl"
