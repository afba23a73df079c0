#!/bin/sh
# The tests of `make test`: system packages first (they are needed for the real S3 server and the real browser).
set -eu
cd "$(dirname "$0")/.."
bash tests/services/packages.sh || echo "some system packages are missing; the tests that need them say so and are skipped"
# Half of the time goes by in waiting for services: three workers keep two cores busy.
# One file stays on one worker, so that each service is started once. Hypothesis draws the same examples in every run and
# sets no deadline: another run's luck, or a busy machine, says nothing about this change. `pytest tests/unit` draws new ones.
# Folders in their order, the dearest first: by numbers of tests a few slow files would end the run alone.
exec .venv/bin/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --quiet --hypothesis-profile=ci "$@"
