// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net"
	"reflect"
	"strings"
	"unicode"
)

// differing names the fields in which two values of one type differ, as people read
// them: "src is 10.0.0.1, and has to be 10.0.0.2; sport is 80, and has to be 8080".
// Verb is between the two values, like "and has to be". What is equal is not told.
func differing(is, want any, verb string) string {
	var parts []string
	compareFields(reflect.ValueOf(is), reflect.ValueOf(want), "", func(name, a, b string) {
		parts = append(parts, fmt.Sprintf("%s is %s, %s %s", name, a, verb, b))
	})
	return strings.Join(parts, "; ")
}

func compareFields(is, want reflect.Value, name string, differs func(name, a, b string)) {
	_, address := is.Interface().(tableAddr)
	if is.Kind() != reflect.Struct || address {
		if a, b := fieldText(name, is), fieldText(name, want); a != b || !is.Equal(want) {
			differs(name, a, b)
		}
		return
	}
	for i := range is.NumField() {
		if field := is.Type().Field(i); field.IsExported() {
			compareFields(is.Field(i), want.Field(i), strings.TrimPrefix(name+" "+snake(field.Name), " "), differs)
		}
	}
}

// snake is the name that a field has in C.
func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// fieldText is a value as people read it: addresses, MACs and ports, which tables
// have in network order; bits in hexadecimal.
func fieldText(name string, v reflect.Value) string {
	last := name[strings.LastIndex(name, " ")+1:]
	switch value := v.Interface().(type) {
	case tableAddr:
		if addr := decodeAddr(value); addr.IsValid() {
			return addr.String()
		}
		return "no address"
	case [6]uint8:
		return net.HardwareAddr(value[:]).String()
	case uint16:
		if strings.HasSuffix(last, "port") {
			return fmt.Sprint(decodePort(value))
		}
	case uint8:
		if last == "flags" || last == "seen" || last == "tcp_flags" {
			return fmt.Sprintf("%#x", value)
		}
	}
	return fmt.Sprint(v.Interface())
}
