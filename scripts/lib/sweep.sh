# Sourced by the scripts of tables and figures: what PROFILE and LAUNCH mean, and where a sweep's folders lie. The stages
# themselves are in stages.sh. Sets nothing that the caller's environment says already.

cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
if [ -z "${VIRTUAL_ENV:-}" ] && [ -x .venv/bin/python ]; then export PATH="$PWD/.venv/bin:$PATH"; fi

refuse() { # refuse WORD...: says in one line what is wrong, and ends with 2
    echo "$(basename "$0"): error: ${*//$'\n'/ }" >&2
    exit 2
}

PROFILE=${PROFILE:-paper}
LAUNCH=${LAUNCH:-local}             # local, slurm, print
JOBS=${JOBS:-1}                     # at a time
LAUNCH_FLAGS=${LAUNCH_FLAGS:-}      # more flags for launch.py, e.g. "--devices 0,1" or "--partition gpu --minutes 720"
RUNS=${RUNS:-runs/$PROFILE}
SEEDS=${SEEDS:-1}
SIGNATURE=${SIGNATURE:-signature}
OTHER_SIGNATURE=${OTHER_SIGNATURE:-autograph} # a thief's
KIND=${KIND:-}                      # imagefolder: CIFAR's pictures lie as train/<class>/* and test/<class>/*
DATA_CIFAR10=${DATA_CIFAR10:-datasets/cifar10}
DATA_CIFAR100=${DATA_CIFAR100:-datasets/cifar100}
TRIGGER_DIR=${TRIGGER_DIR:-}        # of the set (default of the published one: datasets/trigger_set)
TRAINING=${TRAINING:-}              # more flags for whatever trains, e.g. "--compile" or "--limit 20000"

for name in SEED LEVEL CELL SCORE TRANSFER EPOCH; do
    [ -z "${!name:-}" ] || refuse "$name='${!name}': is no setting; ${name}S is"
done

INSTEAD=() # what smoke takes in the place of the paper's lists, to be said
stands_in() { # stands_in LIST PATTERN SMALLER: smoke's list for one that is the paper's, as the pattern knows; one's own stays
    if [[ ${!1:-} =~ ^([[:space:]]*$2)+[[:space:]]*$ ]]; then
        INSTEAD+=("PROFILE=smoke: $3 stands in for $1='${!1//$'\n'/ }'")
        printf -v "$1" %s "$3"
    fi
}

case $PROFILE in
paper) # section 4: 182 epochs, the extreme ticket
    EPOCHS=${EPOCHS:-182}
    TICKET=${TICKET:---extreme --rates 0.2,0.1,0.05,0.01}
    TRIGGERS_PER_BATCH=${TRIGGERS_PER_BATCH:-2} # each trigger is seen 1,300 times; the published code shows 1
    ;;
short) # the same stages in hours on a CPU: short trainings, a ticket of 26% at a fixed rate
    EPOCHS=${EPOCHS:-12}
    TICKET=${TICKET:---rate 0.2 --pruning_times 6}
    TRIGGERS_PER_BATCH=${TRIGGERS_PER_BATCH:-16} # 2 in so few steps are hardly learnt
    ;;
smoke) # minutes on 2 cores: one network on the embedded digits stands for the paper's
    EPOCHS=${EPOCHS:-12}
    TICKET=${TICKET:---rate 0.5 --pruning_times 2}
    TRIGGERS_PER_BATCH=${TRIGGERS_PER_BATCH:-16}
    TRIGGER_SET=${TRIGGER_SET:-keyed}
    stands_in CELLS 'res(20s|18)/cifar100?' res20s/digits
    stands_in TRANSFERS 'cifar100?:cifar100?' digits:digits
    stands_in KEY_RATIOS '0[.]01 0[.]05 0[.]1 0[.]2' "0.05 0.2"
    ;;
*) refuse "PROFILE=$PROFILE: must be paper, short or smoke" ;;
esac

TRIGGER_SET=${TRIGGER_SET:-adi} # adi: the published set; keyed: one's own, its key in $RUNS/trigger.key; folder

# the paper does not say how it fine-tunes, but "for all experiments, we follow the same (re-)training and testing protocol"
FINETUNING=${FINETUNING:---epochs $EPOCHS --lr 0.1}

# --- what was set ------------------------------------------------------------------------------------------------------

check() { # check SETTING SHAPE MUST: refuses a value of another shape, a regular expression; not every table has every setting
    [ -z "${!1:-}" ] || [[ ${!1} =~ ^$2$ ]] || refuse "$1='${!1}': must be $3"
}

check_list() { # check_list SETTING SHAPE MUST: the same of each word in a list, which must hold one or more
    [ -n "${!1:-}" ] || return 0
    local words word
    read -rd '' -a words <<<"${!1}" || true
    [ ${#words[@]} -gt 0 ] || refuse "$1='${!1}': is empty; must hold $3"
    for word in "${words[@]}"; do
        [[ $word =~ ^$2$ ]] || refuse "$1: '$word': must be $3, and several are separated by spaces"
    done
}

SHARE='([01]|[01]?\.[0-9]+|[0-9]*\.?[0-9]+e-[0-9]+)' # 5 would be meant as percent, and fail once the ticket is found
COUNT='[1-9][0-9]*'
check LAUNCH '(local|slurm|print)' "local, slurm or print"
check_list CELLS '[^/]+/[^/]+' "NETWORK/DATASET, e.g. res20s/cifar10"
check_list SEEDS '(0|[1-9][0-9]*)' "a whole number, e.g. 1"
check_list TRANSFERS '[^:/]+:[^:/]+' "DATASET:DATASET, e.g. cifar10:cifar100"
check_list SCORES '[[:alnum:]_]+' "a score, e.g. omp"
check_list KEY_RATIOS "$SHARE" "a number below 1, e.g. 0.05"
check KEY_RATIO "$SHARE" "one number below 1, e.g. 0.05"
check LEVELS " *$SHARE( *, *$SHARE)* *" "numbers separated by commas, none above 1, e.g. 0,0.05,0.1"
check EPOCHS "$COUNT" "a whole number, e.g. 182"
check TRIGGERS_PER_BATCH "$COUNT" "a whole number, e.g. 2"
[ "$TRIGGER_SET" != folder ] || [ -n "$TRIGGER_DIR" ] || refuse "TRIGGER_SET=folder: needs TRIGGER_DIR, the folder"
check NETWORK '[^/[:space:]]+' "one network, e.g. res20s"

source scripts/lib/stages.sh

stage() { echo "# stage: $*"; } # stage TITLE: heads the commands that follow

each() { # each STAGE ARGUMENT...: a stage's command for every cell and seed
    local cell seed
    declare -F "$1" >/dev/null || refuse "each $1: no such stage; the stages are the functions in scripts/lib/stages.sh"
    for cell in $CELLS; do for seed in $SEEDS; do "$1" "$cell" "$seed" "${@:2}"; done; done
}

cmd() { # cmd WORD...: prints a command, quoted so that a shell reads the same words; * stays a pattern
    local line="" word quoted
    for word in "$@"; do
        printf -v quoted %q "$word"
        quoted=${quoted//\\\*/*}
        line+=" ${quoted//\\,/,}"
    done
    echo "${line# }"
}

has_runs() { find "$RUNS" -mindepth 3 -maxdepth 3 -name 'seed*' -print -quit | grep -q .; }

at() { echo "$RUNS/$1/seed$2"; } # at CELL SEED: the folder of their runs

task() { # task DATASET: sets TASK to the flags that name its pictures; DATA_NAME is the folder of data set `name`
    local folder=DATA_${1//[^[:alnum:]]/_}
    folder=${folder^^}
    case $1 in
    cifar10) TASK=(--dataset "${KIND:-$1}" --data "$DATA_CIFAR10") ;;
    cifar100) TASK=(--dataset "${KIND:-$1}" --data "$DATA_CIFAR100") ;;
    *) TASK=(--dataset "$1" ${!folder:+--data "${!folder}"}) ;;
    esac
}

score() { # score NAME: sets SCORE to the flags that split a key off; NAME_walks is the published code's way
    SCORE=(--type "${1%_walks}")
    if [ "$1" != "${SCORE[1]}" ]; then SCORE+=(--select walks); fi
}

triggers() { # triggers: sets TRIGGERS to the flags that name the trigger set
    TRIGGERS=(--trigger_set "$TRIGGER_SET")
    if [ "$TRIGGER_SET" = adi ]; then TRIGGERS+=(--trigger_labels published); fi # 0 to 9 on CIFAR-100 too, as the paper's
    if [ "$TRIGGER_SET" = keyed ]; then TRIGGERS+=(--trigger_key "$RUNS/trigger.key"); fi
    if [ "$TRIGGER_SET" != keyed ] && [ -n "$TRIGGER_DIR" ]; then TRIGGERS+=(--trigger_dir "$TRIGGER_DIR"); fi
}

launch() { # launch NAME: makes the plan, runs it, then shows table or figure NAME, or of another name all that was run
    local lines code=0 shown=0
    [[ $# -eq 1 && $1 =~ ^[[:alnum:]_]+$ ]] ||
        refuse "launch '$*': needs one name of letters, digits and _; a table's, a figure's, or another to show all that was run"
    set +e # the plan itself stops at its first failure, which it would not within || or if
    lines=$(set -e; plan)
    code=$?
    set -e
    if [ $code -ne 0 ]; then
        [ $code -eq 2 ] || refuse "plan ended with exit code $code, so nothing was run; mend it or the stage it stopped in"
        exit 2 # it has said why
    fi
    grep -q '^[^#]' <<<"$lines" || refuse "plan holds no command; see its stages and lists"
    if [ "$LAUNCH" = print ]; then
        [ ${#INSTEAD[@]} -eq 0 ] || printf '# %s\n' "${INSTEAD[@]}"
        awk '/^#/ || !seen[$0]++' <<<"$lines"
        return
    fi
    [ ${#INSTEAD[@]} -eq 0 ] || printf '%s\n' "${INSTEAD[@]}" >&2
    # shellcheck disable=SC2086
    python scripts/launch.py --launch "$LAUNCH" --jobs "$JOBS" --logs "$RUNS/logs" $LAUNCH_FLAGS <<<"$lines" || code=$?
    # what failed is an empty cell; where nothing is there, the launcher has said why
    if [ $code -eq 0 ] || { [ $code -eq 1 ] && has_runs; }; then
        python scripts/make_tables.py --runs "$RUNS" --out "$RUNS/tables" --only "$1" || shown=$?
    fi
    [ $code -ne 0 ] || code=$shown
    return $code
}
