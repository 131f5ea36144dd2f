#!/usr/bin/env bash
# A learner of curl and a shell: it fetches orders and models, has a program train, and sends what that makes.
#
#     examples/curl_learner.sh URL NAME EXAMPLES TRAIN [OPTION OF CURL ...]
#
# URL is the leader's http.listen, such as http://127.0.0.1:8080; EXAMPLES how many this learner has. TRAIN is a command
# that finds order.json and model.safetensors in this folder and leaves update.safetensors: what training changed, by
# the same names. For a secure run the options of curl are
#     --cacert ca.pem --header "authorization: Bearer $(cat token)"
set -euo pipefail

url=$1 name=$2 examples=$3 train=$4
said=("${@:5}") # by every request

field() { # NAME FILE: what stands in the first field of this name; the leader writes a field a line
  sed --quiet "s/^ *\"$1\": \"\\{0,1\\}\\([^\",]*\\)\"\\{0,1\\},\\{0,1\\}\$/\\1/p" "$2" | head --lines=1
}

ask() { # FILE ARGUMENT...: one request, its answer into FILE; false where it came too late and there is other work
  local status
  status=$(curl --silent --show-error --write-out '%{http_code}' "${said[@]}" --output "$@") || exit "$?"
  case $status in
    200) return 0 ;;
    409 | 410) return 1 ;; # it counts already; its round is over
    *) echo "refused with $status: $(cat "$1")" >&2 && exit 1 ;;
  esac
}

ask answer.json "$url/register" \
  --data "{\"name\": \"$name\", \"own_data\": {\"examples\": $examples, \"fingerprint\": \"$name\"}}" || exit 1
said+=(--header "flockstep-token: $(field token answer.json)")

until ask order.json "$url/work?wait_s=30" && [ "$(field over order.json)" = true ]; do
  work=$(field work_id order.json)
  if [ -z "$work" ] || ! ask model.safetensors "$url/model?version=$(field version order.json)"; then
    continue
  fi
  $train
  # The CRC-32, which gzip writes before the size that ends its file.
  crc32=$(gzip --fast --stdout update.safetensors | tail --bytes=8 | od --endian=little -A n -N 4 -t u4 | tr -d ' ')
  if ask answer.json "$url/aggregate?work_id=$work&examples=$examples&crc32=$crc32" \
    --request POST --upload-file update.safetensors; then
    echo "round $(field round order.json): $(field message answer.json)"
  fi
done
