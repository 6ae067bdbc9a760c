#!/usr/bin/env bash
# What needs a GPU, in at most six minutes: the tests marked cuda, training steps, similarity and
# verification, slim models. It prints after every part, and a part that fails or hangs does not
# lose the rest.
#
#     benchmarks/gpu.sh WHEELS [OPTION...]
#
# WHEELS is a folder of wheels to install from, without a network, into an environment of its own
# beside what the machine has (its torch); "-" takes what is installed already. OPTIONs are given to
# every benchmark: `--device cpu --quick` tries the script out without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

if [ $# -lt 1 ]; then
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
fi
wheels=$1
options=("${@:2}")
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
outcomes=()
failed=0

# part NAME SECONDS COMMAND...: run a command for at most so many seconds, and say how it ended.
part() {
    local name=$1 seconds=$2 start=$SECONDS code=0 outcome
    shift 2
    printf '\n== %s, at most %s s\n' "$name" "$seconds"
    timeout --kill-after=4 "$seconds" "$@" || code=$?
    case $code in
        0) outcome=done ;;
        124 | 137) outcome="STOPPED after $seconds s" ;;
        *) outcome="FAILED with $code" ;;
    esac
    [ "$code" -eq 0 ] || failed=1
    outcomes+=("$(printf '%-24s %4s s  %s' "$name" $((SECONDS - start)) "$outcome")")
    printf -- '-- %s\n' "${outcomes[-1]}"
    return "$code"
}

# install FOLDER WHEELS: an environment that sees the packages of this Python, be it a venv itself.
install() {
    local new=$1/bin/python
    "$python" -m venv --system-site-packages "$1" &&
        "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
            > "$("$new" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth" &&
        "$new" -m pip install -q --no-index --find-links "$2" setuptools wheel &&
        "$new" -m pip install -q --no-index --find-links "$2" --no-build-isolation -e . pytest pytest-xdist jiwer
}

benchmark() {
    local name=$1 seconds=$2 module=$3
    part "$name" "$seconds" "$python" -m "benchmarks.$module" "${@:4}" ${options[@]+"${options[@]}"}
}

if [ "$wheels" != - ]; then
    environment=$(mktemp -d)
    trap 'rm -rf "$environment"' EXIT
    export -f install
    export python
    part "installing" 70 bash -c 'install "$@"' install "$environment" "$wheels" || exit 1
    python=$environment/bin/python
fi

# The seconds of all parts, with four each to end in, make six minutes.
mapfile -t marked < <(grep -rl --include='test_*.py' 'pytest\.mark\.cuda' tests)
part "tests marked cuda" 80 "$python" -m pytest -m cuda -n 8 --dist load "${marked[@]}"
benchmark "a step, 10 and 75 s" 60 train_step --seconds 10 --seconds 75 --check
benchmark "a step, 300 s" 35 train_step --seconds 300
benchmark "similarity, verification" 30 layers_on_device
benchmark "slim models" 60 slim

printf '\n== all parts\n'
printf '%s\n' "${outcomes[@]}"
exit "$failed"
