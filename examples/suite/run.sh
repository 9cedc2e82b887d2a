#!/bin/sh
# Sign in once, and hold that login while the suite runs: ./run.sh http://127.0.0.1:8080
set -eu
export APP="$1" JAR
JAR=$(mktemp)
trap 'rm -f "$JAR"' EXIT
curl --silent --fail --output /dev/null --cookie-jar "$JAR" --data name=suite "$APP/login"
keepalive hold "$APP" --cookies "$JAR" -- python3 "$(dirname "$0")/test_api.py"
