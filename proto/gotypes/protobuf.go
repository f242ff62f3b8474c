package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// protobufHead tells what stands below it; names stand in backticks.
const protobufHead = `# What Go's types (k8s.io/api, apimachinery, apiextensions-apiserver, kube-aggregator v0.37.2) know of a message's fields
# and its .proto file does not; written by proto/gotypes. "pointer", absent and zero differ; "always", zero is written in
# JSON too; "inline", its fields are its parent's in JSON; "json=", another name there.
`

// protobuf prints the facts by which proto/protobuf leads the messages of the .proto files in a folder to JSON and back.
func protobuf(schema string) {
	known := structs()
	fmt.Print(strings.ReplaceAll(protobufHead, `"`, "`"))
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if _, err := os.Stat(filepath.Join(schema, known[name].PkgPath(), "generated.proto")); err != nil {
			continue
		}
		var facts []string
		for _, one := range declared(known[name]) {
			if one.proto == "" {
				continue
			}
			var flags []string
			switch {
			case one.inline:
				flags = append(flags, "inline")
			case one.isScalar() && one.pointer:
				flags = append(flags, "pointer")
			case one.isScalar() && !one.omitEmpty && !one.omitZero:
				flags = append(flags, "always")
			}
			if !one.inline && one.json != one.proto {
				flags = append(flags, "json="+one.json)
			}
			if len(flags) > 0 {
				facts = append(facts, one.proto+":"+strings.Join(flags, "+"))
			}
		}
		if len(facts) > 0 {
			// Packages in .proto files have no hyphens.
			fmt.Println(strings.ReplaceAll(name, "-", "_"), strings.Join(facts, " "))
		}
	}
}
