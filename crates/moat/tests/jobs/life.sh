# words, folder, result: a downloaded file, a mounted folder, a named output.
echo "I am $AZUREML_RUN_ID"
cat "$1" "$2"/below/*.txt
echo more >> "$1" && echo "a download may be changed"
touch "$2/new" 2> /dev/null || echo "a mount may not"
mkdir -p outputs/deep
echo kept > outputs/deep/kept.txt
echo named > "$3/named.txt"
