# Sourced by the other scripts: makes .venv with everything the project needs and puts it on PATH.
# Does nothing where that is done already. Wants Python >= 3.10; asks apt for what else is missing, where it may.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

apt_install() { # apt_install PACKAGE...: quietly, as root or with a password-free sudo; false where that can't be
    local sudo=""
    if [ "$(id -u)" != 0 ]; then sudo="sudo -n --preserve-env=DEBIAN_FRONTEND"; sudo -n true 2>/dev/null || return 1; fi
    command -v apt-get >/dev/null || return 1
    export DEBIAN_FRONTEND=noninteractive
    { $sudo apt-get install -y -qq --no-install-recommends "$@" ||
        { $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends "$@"; }; } >/dev/null 2>&1
}

PYTHON=${PYTHON:-python3}
command -v "$PYTHON" >/dev/null || apt_install python3 python3-venv ||
    { echo "setup: no $PYTHON; install Python >= 3.10, or set PYTHON=/path/to/python3" >&2; exit 2; }
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    { echo "setup: $("$PYTHON" --version) is too old; set PYTHON=/path/to/a/python of 3.10 or later" >&2; exit 2; }

wanted=$(cksum <requirements.txt)
if [ "$(cat .venv/installed 2>/dev/null)" != "$wanted" ]; then
    echo "setup: installing into .venv (once; PyTorch is large, this takes minutes)"
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        if [ -e .venv ] && [ ! -e .venv/.lottery-verification ]; then
            echo "setup: .venv is there, has no pip and is not this project's; move it away" >&2
            exit 2
        fi
        make_venv() { mkdir -p .venv && touch .venv/.lottery-verification && "$PYTHON" -m venv .venv; }
        make_venv >/dev/null 2>&1 || { apt_install python3-venv && make_venv; } ||
            { echo "setup: $PYTHON can't make virtual environments; apt-get install python3-venv" >&2; exit 2; }
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt ||
        { echo "setup: pip failed; mend what it says and run this again" >&2; exit 2; }
    # what --compile needs on a GPU: Triton builds its launchers with a C compiler and Python's headers
    if [ -e /dev/nvidiactl ]; then
        { command -v "${CC:-gcc}" && [ -e "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; } \
            >/dev/null 2>&1 || apt_install gcc python3-dev || true # a run with --compile says what is missing
    fi
    ldconfig -p 2>/dev/null | grep -q libzbar || apt_install libzbar0 || true # without it ZXing reads alone
    echo "$wanted" >.venv/installed
fi
export PATH="$PWD/.venv/bin:$PATH"
