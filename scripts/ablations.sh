#!/bin/sh
# The ablations of docs/ablations.md from nothing, on both bundled suites: successes on validation episodes, and times: of
# token policies on recorded observations, in float32 and bfloat16, of flow-matching ones while they play. Whatever is
# timed wants the machine for itself.
#
#     scripts/ablations.sh [OUT] [EPISODES] [FAMILY]        default: runs/ablations 20 tokens,flow
#
# What is played resumes; on 2 cores the tokens' take some 25 minutes a suite for 20 episodes, their times some 10.
set -eu
cd "$(dirname "$0")/.."
out=${1:-runs/ablations}
episodes=${2:-20}
families=${3:-tokens,flow}
heisd=.venv/bin/heisd
python=.venv/bin/python
mkdir -p "$out"

of_tokens() {
    suite=$1
    lossy=spec_vla_relaxed,kerv_paper,kerv_code,rt_cache,heisd_paper,heisd_code,hold_2to1,hold_calibrated
    exact=exact,spec_vla_strict,retrieval_sd
    parts=$($python benchmarks/ablations.py lossy)
    exact_parts=$($python benchmarks/ablations.py exact)
    ours=hybrid
    [ "$suite" = libero_object ] && ours=hybrid,coast # what is calibrated there
    seen="runs/observations-$suite.npz" # large: never among results
    [ -e "$seen" ] || $python benchmarks/own_tokens.py --suite "$suite" --episodes 10 --no-reference --record "$seen" > /dev/null
    recorded() { name=$1; shift; $heisd bench --suite "$suite" --observations "$seen" --json "$@" > "$out/$name"; }
    recorded "recorded-$suite.json" --steps 500 --method "ar,$exact,$ours,$lossy,$exact_parts,$parts"
    recorded "recorded-$suite-bfloat16.json" --steps 500 --method "ar,$ours,$lossy" --dtype bfloat16
    recorded "flips-$suite.json" --steps 800 --method $exact --dtype bfloat16 --check-exact --report-flips
    $heisd eval --suite "$suite" --split validation --episodes "$episodes" --workers 2 --out "$out/ablations-$suite" \
        --method "ar,hybrid,$lossy,$parts"
}

of_flow() {
    $heisd eval --suite "$1" --split validation --episodes "$episodes" --timing --out "$out/ablations-flow-$1" \
        --method "$($python benchmarks/ablations.py "$1")"
}

for suite in libero_object libero_spatial; do
    case $families in *tokens*) of_tokens $suite ;; esac
    case $families in *flow*) of_flow $suite ;; esac
done
