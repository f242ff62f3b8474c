package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// objectHead tells what stands below it; names stand in backticks.
const objectHead = `# What Go's types (k8s.io/api, apimachinery, apiextensions-apiserver, kube-aggregator v0.37.2) know of fields and the
# published definitions do not; written by proto/gotypes. "*": a pointer, absent and zero differ. "!": written though it
# is zero and not required; "?": not written when it is zero, though required or with a default. "Rule.": the embedded
# structs that hold the field. Then its type, where it does not follow: named strings, named maps and lists.
`

// definition is what the published definitions say.
type definition struct {
	Ref                  string `json:"$ref"`
	AllOf                []definition
	Type, Format         string
	Default              any
	Required             []string
	Items                *definition
	AdditionalProperties *definition
	Properties           map[string]definition
	Kinds                []any `json:"x-kubernetes-group-version-kind"`
}

// derived is the name of a Go type, as far as it follows from the definition.
func (d definition) derived() string {
	ref := d.Ref
	if len(d.AllOf) > 0 {
		ref = d.AllOf[0].Ref
	}
	if ref != "" {
		parts := strings.Split(ref, ".")
		return strings.Join(parts[len(parts)-2:], ".")
	}
	switch d.Type {
	case "array":
		return "[]" + d.Items.derived()
	case "object":
		if d.AdditionalProperties == nil {
			return "map[string]string"
		}
		return "map[string]" + d.AdditionalProperties.derived()
	case "integer":
		if d.Format == "" {
			return "int64"
		}
		return d.Format
	case "number":
		return "float64"
	case "boolean":
		return "bool"
	default:
		return d.Type
	}
}

// object prints the facts by which proto/object/schema reads and writes as Go does.
func object(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	definitions := map[string]definition{}
	if err := json.Unmarshal(text, &definitions); err != nil {
		return err
	}
	known := structs()
	fmt.Print(strings.ReplaceAll(objectHead, `"`, "`"))
	for _, name := range slices.Sorted(maps.Keys(definitions)) {
		short := strings.TrimPrefix(name, "io.k8s.")
		of, isKnown := known["k8s.io."+short]
		if !isKnown {
			continue
		}
		fields := map[string]field{}
		for _, one := range flat(of, "") {
			fields[one.json] = one
		}
		var facts []string
		for _, key := range slices.Sorted(maps.Keys(definitions[name].Properties)) {
			one, isField := fields[key]
			if !isField || len(definitions[name].Kinds) > 0 && (key == "apiVersion" || key == "kind") {
				continue
			}
			if fact := factOf(one, definitions[name].Properties[key], slices.Contains(definitions[name].Required, key)); fact != "" {
				facts = append(facts, key+":"+fact)
			}
		}
		if len(facts) > 0 {
			fmt.Println(short, strings.Join(facts, " "))
		}
	}
	return nil
}

func factOf(one field, said definition, isRequired bool) string {
	isAlwaysWritten := !one.omitEmpty && !one.omitZero
	isTime := one.name() == "v1.Time" || one.name() == "v1.MicroTime"
	fact := ""
	if one.isScalar() && one.pointer {
		fact += "*"
	}
	switch {
	case isTime && !one.pointer && !one.omitZero && !isRequired,
		!one.isStruct() && isAlwaysWritten && !isRequired:
		fact += "!"
	case !one.isStruct() && !one.pointer && !isAlwaysWritten && (isRequired || isZero(said.Default) || one.isText() && said.Default != nil):
		fact += "?"
	}
	fact += strings.TrimPrefix(one.embedded, "TypeMeta.")
	if one.name() != said.derived() {
		fact += one.name()
	}
	return fact
}

// isZero tells whether a default is one and says nothing.
func isZero(value any) bool { return value == "" || value == 0.0 || value == false }
