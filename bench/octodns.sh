#!/bin/sh
# Puts octoDNS into a virtual environment of its own, in the folder that is named. Does nothing where it is there already.
set -eu

folder=$1
[ -x "$folder/bin/octodns-sync" ] && exit 0
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check octodns octodns-bind
