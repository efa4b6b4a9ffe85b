// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// label takes KEY=VALUE into the labels of an object, or KEY= with nothing
// behind it: a label without a value, which is another thing than no label.
func (l *line) label(of string, labels map[string]string) error {
	key, err := l.word("KEY=VALUE")
	if err != nil {
		return err
	}
	sign := l.peek()
	if err := l.must("="); err != nil {
		return err
	}
	value := ""
	// What stands apart is the next word.
	if t := l.peek(); t.kind != end && t.column == sign.column+1 {
		if l.next(); t.kind != word && t.kind != text {
			return l.expected("a value for label "+key+", or a blank for none", t)
		}
		value = t.value
	}
	if wrong := validation.IsQualifiedName(key); len(wrong) > 0 {
		return fmt.Errorf("%s: '%s' cannot be the key of a label: %s\n\tusage: %s", of, key, strings.Join(wrong, "; "), l.usage)
	}
	if wrong := validation.IsValidLabelValue(value); len(wrong) > 0 {
		return fmt.Errorf("%s: label %s cannot have the value '%s': %s\n\tusage: %s", of, key, value, strings.Join(wrong, "; "), l.usage)
	}
	if _, twice := labels[key]; twice {
		return fmt.Errorf("%s: label %s is named twice: name it once\n\tusage: %s", of, key, l.usage)
	}
	labels[key] = value
	return nil
}
