#!/bin/sh
# README's comparison of presets from nothing, on both bundled suites: times, successes, memory, and the tables.
#
#     scripts/comparison.sh [OUT]        default: runs/comparison; the tables are OUT/comparison.md
#
# Every part resumes, so the same command goes on after a kill. On 2 cores: some 40 minutes a suite for the times, which
# want the machine for themselves, and a guess of five hours for the successes. It has not been run from end to end.
set -eu
cd "$(dirname "$0")/.."
out=${1:-runs/comparison}
heisd=.venv/bin/heisd
python=.venv/bin/python
ours() { case $1 in libero_object) echo exact,hybrid,coast ;; *) echo exact,hybrid ;; esac; } # what is calibrated there
rivals=spec_vla_strict,spec_vla_relaxed,kerv_paper,kerv_code,retrieval_sd,rt_cache,heisd_paper,heisd_code,hold_2to1,hold_calibrated
suites="libero_object libero_spatial"

for suite in $suites; do
    $heisd eval --suite "$suite" --split test --method "ar,$(ours "$suite"),$rivals" --timing --episodes 20 --out "$out/compare-$suite"
done
$python benchmarks/memory.py --suite libero_object --method "ar,$(ours libero_object),$rivals" > "$out/memory.json"

# Presets that promise plain decoding's tokens share its successes. What is lossy and not ours: 50 episodes a condition.
lossy=spec_vla_relaxed,kerv_paper,kerv_code,rt_cache,heisd_paper,heisd_code,hold_2to1,hold_calibrated
success() { name=$1; shift; $heisd eval --split test --workers 2 --out "$out/success-$name" "$@"; }
for suite in $suites; do
    lossy_ours=$(ours "$suite" | sed s/exact,//)
    success "$suite-shipped" --suite "$suite" --method "ar,$lossy_ours" --episodes 100
    success "$suite-jitter" --suite "$suite" --condition jitter --method "ar,$lossy_ours" --episodes 100
    success "$suite-fresh" --suite "$suite" --fresh --method "ar,$lossy_ours" --episodes 300
    success "$suite-shipped-rivals" --suite "$suite" --method $lossy --episodes 50
    success "$suite-jitter-rivals" --suite "$suite" --condition jitter --method $lossy --episodes 50
done

$python benchmarks/compare.py "$out" > "$out/comparison.md"
echo "$out/comparison.md"
