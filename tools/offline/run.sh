#!/usr/bin/env bash
# bash run.sh CONFIG MINUTES [WORKDIR] [--config.FIELD=VALUE ...]   (README.txt; PYTHON=... takes another Python)
exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/run.py" "$@"
