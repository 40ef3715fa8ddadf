#!/bin/sh
# Everything behind src/heisd/weights, from nothing: demonstrations, five training stages with corrections between them,
# the blind baseline, the drafter and the store. Some hours on 2 cores. The same command goes on after a kill.
#
# The shipped files came from these commands, given one by one over four versions of the code (docs/policy.md says which).
# Given today they make a policy like it, not the same bits; as one script they have not been run from end to end.
set -eu
heisd=${HEISD:-.venv/bin/heisd}
data=${1:-data} runs=${2:-runs}

demonstrations="--data $data/libero_object --data $data/libero_spatial"
first="--data $data/spatial_driven --data $data/spatial_driven_hard --data $data/object_driven"
second="--data $data/spatial_driven2 --data $data/spatial_driven2_hard --data $data/object_driven2"
third="--data $data/spatial_driven3_six --data $data/spatial_driven3"

collect() { suite=$1 episodes=$2 out=$3; shift 3; $heisd collect --suite "$suite" --episodes "$episodes" --out "$data/$out" "$@"; }
train() { out=$1; shift; $heisd train policy --resume --out "$runs/$out" "$@"; }

collect libero_object 250 libero_object
collect libero_spatial 400 libero_spatial
train policy2 $demonstrations

# corrections: the policy drives, an expert takes over wherever it has got to
collect libero_spatial 100 spatial_driven --driver "$runs/policy2/policy" --seed 1
collect libero_spatial 45 spatial_driven_hard --tasks 4,5,9 --driver "$runs/policy2/policy" --seed 2
collect libero_object 30 object_driven --driver "$runs/policy2/policy" --seed 1
train policy3 --from "$runs/policy2" --config recipes/policy-corrections.json $demonstrations $first

collect libero_spatial 120 spatial_driven2_hard --tasks 1,5,8,9 --driver "$runs/policy3/policy" --seed 11
collect libero_spatial 160 spatial_driven2 --driver "$runs/policy3/policy" --seed 12
collect libero_object 40 object_driven2 --driver "$runs/policy3/policy" --seed 13
train policy4 --from "$runs/policy3" --config recipes/policy-corrections-2.json $demonstrations $first $second

collect libero_spatial 40 spatial_driven3_six --tasks 6 --driver "$runs/policy4/policy" --seed 21
collect libero_spatial 60 spatial_driven3 --driver "$runs/policy4/policy" --seed 22
train policy5 --from "$runs/policy4" --config recipes/policy-corrections.json $demonstrations $first $second $third
train policy6 --from "$runs/policy5" --config recipes/policy-corrections-3.json $demonstrations $first $second $third

train blind --blind --steps 8200 --config recipes/blind.json $demonstrations $first $second $third

# what knows this policy only
policy="$runs/policy6/policy"
$heisd train drafter --weights "$policy" --rollouts "$data/rollouts" --episodes 300 $first $second $third --config recipes/drafter.json \
    --out "$runs/drafter" --resume
$heisd train drafter --kind eagle --weights "$policy" --rollouts "$data/rollouts" --episodes 300 --config recipes/drafter.json \
    --out "$runs/eagle" --resume
[ -e "$runs/store" ] || $heisd index build --weights "$policy" --rollouts "$data/rollouts" --out "$runs/store"

# beside the policy, under its name; then what may go unverified with all of it
for what in drafter eagle; do [ -e "$policy-$what" ] || cp -r "$runs/$what/drafter" "$policy-$what"; done
[ -e "$policy-store" ] || cp -r "$runs/store" "$policy-store"
for suite in libero_object libero_spatial; do
    $heisd calibrate --suite "$suite" --weights "$policy" --method hybrid,coast,hold_calibrated --workers 2 --out "$runs/calibrate-$suite"
done
