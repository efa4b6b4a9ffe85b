// SPDX-License-Identifier: Apache-2.0

package model

import (
	"errors"
)

// FieldError is what is wrong with one field of an object.
type FieldError struct {
	Object  Ref
	Field   string // path, as in spec.ports[0].port
	Problem string // with the remedy
	Table   Table  // whose budget does not hold the object; empty: it is wrong in itself
}

func (e *FieldError) Error() string {
	return e.Object.String() + ": " + e.Field + ": " + e.Problem
}

// FieldErrors are those that are joined in an error, in their order.
func FieldErrors(err error) []*FieldError {
	several, ok := err.(interface{ Unwrap() []error })
	if !ok {
		if field, ok := errors.AsType[*FieldError](err); ok {
			return []*FieldError{field}
		}
		return nil
	}
	var all []*FieldError
	for _, err := range several.Unwrap() {
		all = append(all, FieldErrors(err)...)
	}
	return all
}
