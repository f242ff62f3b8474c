package main

import (
	"reflect"
	"slices"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// field is one field of a struct as encoding/json and protobuf see it.
type field struct {
	json      string
	proto     string
	goType    reflect.Type // without the pointer
	pointer   bool
	omitEmpty bool
	omitZero  bool
	inline    bool
	embedded  string // "RuleWithOperations.Rule.": the structs that hold it
}

// name is that of its type in errors of encoding/json: v1.PullPolicy.
func (f field) name() string { return f.goType.String() }

func (f field) isStruct() bool { return f.goType.Kind() == reflect.Struct }

func (f field) isScalar() bool {
	switch f.goType.Kind() {
	case reflect.String, reflect.Bool, reflect.Int32, reflect.Int64, reflect.Float64:
		return true
	default:
		return false
	}
}

func (f field) isText() bool { return f.goType.Kind() == reflect.String }

// structs are all that objects of built-in kinds are made of, by package and name: k8s.io.api.core.v1.Pod.
func structs() map[string]reflect.Type {
	found := map[string]reflect.Type{}
	for _, kind := range scheme.Scheme.AllKnownTypes() {
		visit(kind, found)
	}
	visit(reflect.TypeFor[apiextensions.CustomResourceDefinitionList](), found)
	visit(reflect.TypeFor[apiextensions.ConversionReview](), found)
	visit(reflect.TypeFor[apiregistration.APIServiceList](), found)
	return found
}

func visit(t reflect.Type, found map[string]reflect.Type) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		visit(t.Elem(), found)
	case reflect.Struct:
		name := strings.ReplaceAll(t.PkgPath(), "/", ".") + "." + t.Name()
		if found[name] != nil {
			return
		}
		found[name] = t
		for i := range t.NumField() {
			visit(t.Field(i).Type, found)
		}
	}
}

// declared are the fields that stand in a struct itself.
func declared(t reflect.Type) []field {
	var all []field
	for i := range t.NumField() {
		f := t.Field(i)
		if f.PkgPath != "" {
			continue
		}
		json := strings.Split(f.Tag.Get("json"), ",")
		one := field{
			json:      json[0],
			goType:    f.Type,
			omitEmpty: slices.Contains(json[1:], "omitempty"),
			omitZero:  slices.Contains(json[1:], "omitzero"),
			inline:    f.Anonymous && json[0] == "" && f.Type.Kind() == reflect.Struct,
		}
		if tag := f.Tag.Get("protobuf"); tag != "" && tag != "-" {
			one.proto = strings.ToLower(f.Name[:1]) + f.Name[1:]
			for part := range strings.SplitSeq(tag, ",") {
				if name, isName := strings.CutPrefix(part, "name="); isName {
					one.proto = name
				}
			}
		}
		if f.Type.Kind() == reflect.Pointer {
			one.goType, one.pointer = f.Type.Elem(), true
		}
		if one.json != "-" && (one.json != "" || one.inline) {
			all = append(all, one)
		}
	}
	return all
}

// flat are the fields of a struct and of those that are embedded in it.
func flat(t reflect.Type, embedded string) []field {
	var all []field
	for _, one := range declared(t) {
		if one.inline {
			all = append(all, flat(one.goType, embedded+one.goType.Name()+".")...)
			continue
		}
		one.embedded = embedded
		all = append(all, one)
	}
	return all
}
