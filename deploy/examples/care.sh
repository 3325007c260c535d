#!/bin/sh
# Runs one command of zombi as the Job of care.yaml, and shows what it prints; exits as the command does:
#
#   sh deploy/examples/care.sh verify s3://your-backups/zombi
#   CLAIM=data-zombi-0 sh deploy/examples/care.sh salvage --data-dir /old
#
# CLAIM is a claim that is mounted at /old, which no other pod may use meanwhile. NAMESPACE is zombi if it is not set.
set -eu
here=$(dirname "$0")
namespace=${NAMESPACE:-zombi}
# No word of such a command holds a quote.
words=
for word in "$@"; do
  words="$words${words:+, }\"$word\""
done
at=/spec/template/spec
patch="{\"op\": \"replace\", \"path\": \"$at/containers/0/args\", \"value\": [$words]}"
patch="$patch, {\"op\": \"replace\", \"path\": \"/metadata/namespace\", \"value\": \"$namespace\"}"
if [ -n "${CLAIM:-}" ]; then
  volume="{\"name\": \"old\", \"persistentVolumeClaim\": {\"claimName\": \"$CLAIM\"}}"
  patch="$patch, {\"op\": \"add\", \"path\": \"$at/volumes\", \"value\": [$volume]}"
  mount='{"name": "old", "mountPath": "/old"}'
  patch="$patch, {\"op\": \"add\", \"path\": \"$at/containers/0/volumeMounts\", \"value\": [$mount]}"
fi
kubectl --namespace "$namespace" delete job zombi-care --ignore-not-found --wait >&2
kubectl patch --local --filename "$here/care.yaml" --type json --patch "[$patch]" --output yaml |
  kubectl --namespace "$namespace" create --filename - >&2
kubectl --namespace "$namespace" logs --follow --pod-running-timeout=10m job/zombi-care
# The log ends a moment before the Job knows how.
until result=$(kubectl --namespace "$namespace" get job zombi-care \
  --output jsonpath='{.status.succeeded}/{.status.failed}') && [ "$result" != / ]; do
  sleep 1
done
[ "$result" = 1/ ]
