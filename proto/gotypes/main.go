// gotypes prints what only Go's types know of Kubernetes' objects: which fields are pointers, which are written though
// they are zero, what is embedded where, what types are called.
package main

import (
	"fmt"
	"os"
)

func main() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "object":
		if err := object(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "gotypes:", err)
			os.Exit(1)
		}
	case len(os.Args) == 3 && os.Args[1] == "protobuf":
		protobuf(os.Args[2])
	default:
		fmt.Fprintln(os.Stderr, "usage: gotypes object DEFINITIONS.json | gotypes protobuf SCHEMA")
		os.Exit(2)
	}
}
