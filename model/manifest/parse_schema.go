// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// schemaProblem is what the API's schema of a kind forbids, and what cannot be
// told any more once the object has a Go type.
type schemaProblem struct{ field, text string }

// schemaProblems finds, in the kinds of policies that have a schema in the API,
// entries of lists that are null, and fields that have to be there and whose
// zero is a value.
func schemaProblems(kind string, object []byte) []schemaProblem {
	var required []string
	switch kind {
	case "ClusterNetworkPolicy":
		required = []string{"spec.priority"}
	case "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy":
	default:
		return nil
	}
	root := readTree(object)
	var problems []schemaProblem
	for _, path := range required {
		if !root.at(strings.Split(path, ".")...).there() {
			problems = append(problems, schemaProblem{path, "is missing, and the API wants it: give a number"})
		}
	}
	for _, part := range []string{"spec", "specs"} {
		problems = append(problems, nullEntries(part, root.at(part).value)...)
	}
	return problems
}

func nullEntries(path string, value any) []schemaProblem {
	var problems []schemaProblem
	switch v := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			problems = append(problems, nullEntries(path+"."+key, v[key])...)
		}
	case []any:
		for i, entry := range v {
			at := fmt.Sprintf("%s[%d]", path, i)
			if entry == nil {
				problems = append(problems, schemaProblem{at, "is null: remove it, or write {}"})
			}
			problems = append(problems, nullEntries(at, entry)...)
		}
	}
	return problems
}
