// SPDX-License-Identifier: Apache-2.0

// Package frame builds frames from described layers, and takes frames apart
// into the same description: right ones with the least words, malformed ones
// by naming the field that is to be wrong.
//
// It judges nothing about a frame, and is not a general packet library: it
// knows the headers that the datapath reads. Its one invariant is that
// decoding never fails or panics: what cannot be read is given as raw bytes.
package frame

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Layer is one header, with the fields that somebody named or, when decoded,
// all of them.
type Layer struct {
	Kind   string // a name of Kinds
	Fields []Field
}

// Field is one named value of a layer.
type Field struct {
	Name  string
	Value Value
}

// Get gives the value of a field.
func (l Layer) Get(name string) (Value, bool) {
	for _, f := range l.Fields {
		if f.Name == name {
			return f.Value, true
		}
	}
	return Value{}, false
}

// With gives a copy of the layer in which a field has a value.
func (l Layer) With(name string, v Value) Layer {
	l.Fields = slices.Clone(l.Fields)
	for i := range l.Fields {
		if l.Fields[i].Name == name {
			l.Fields[i].Value = v
			return l
		}
	}
	l.Fields = append(l.Fields, Field{name, v})
	return l
}

// number gives a field's number, or a default when it is not named.
func (l *Layer) number(name string, otherwise uint64) uint64 {
	if v, ok := l.Get(name); ok {
		return v.num
	}
	return otherwise
}

// Type says what a field holds and how it is written.
type Type uint8

// Types of fields.
const (
	Number   Type = iota // 80, 0x50
	Address              // 10.0.0.1, fd00::1, or a host's name
	Hardware             // 02:00:00:00:00:01, or a host's name
	Bytes                // hex digits
	Text                 // "quoted"
	TCPFlags             // letters of FSRPAUEC, or none
	IPFlags              // letters of D (don't fragment), M (more), R (reserved), or none
	NDPFlags             // letters of R (router), S (solicited), O (override), or none
	ARPOp                // request, reply or a number
)

// Value is one field's value.
type Value struct {
	kind Type
	num  uint64
	addr netip.Addr
	data string // bytes of Hardware, Bytes and Text
}

// Num is a number.
func Num[T ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~int](n T) Value {
	return Value{kind: Number, num: uint64(n)}
}

// Addr is an IP address.
func Addr(a netip.Addr) Value { return Value{kind: Address, addr: a} }

// MAC is a hardware address.
func MAC(m net.HardwareAddr) Value { return Value{kind: Hardware, data: string(m)} }

// Data is bytes.
func Data(b []byte) Value { return Value{kind: Bytes, data: string(b)} }

// Num gives a number's or flags' value.
func (v Value) Num() uint64 { return v.num }

// Addr gives an address's value.
func (v Value) Addr() netip.Addr { return v.addr }

// Bytes gives the value of bytes, text or a hardware address.
func (v Value) Bytes() []byte { return []byte(v.data) }

// Equal compares what two values hold, however they were written.
func (v Value) Equal(w Value) bool {
	return v.num == w.num && v.addr == w.addr && v.data == w.data
}

const (
	tcpLetters = "FSRPAUEC" // from bit 0 up
	ipLetters  = "MDR"      // from bit 0 of the three up
	ndpLetters = "OSR"      // from bit 5 of the flags octet up
)

func (v Value) String() string {
	switch v.kind {
	case Address:
		return v.addr.String()
	case Hardware:
		return net.HardwareAddr(v.data).String()
	case Bytes:
		if v.data == "" {
			return "none"
		}
		return hex.EncodeToString([]byte(v.data))
	case Text:
		return strconv.Quote(v.data)
	case TCPFlags:
		return letters(v.num, tcpLetters)
	case IPFlags:
		return letters(v.num, ipLetters)
	case NDPFlags:
		return letters(v.num, ndpLetters)
	case ARPOp:
		switch v.num {
		case 1:
			return "request"
		case 2:
			return "reply"
		}
	}
	return strconv.FormatUint(v.num, 10)
}

func letters(n uint64, names string) string {
	var b strings.Builder
	for i := range len(names) {
		if n&(1<<i) != 0 {
			b.WriteByte(names[i])
		}
	}
	if b.Len() == 0 {
		return "none"
	}
	return b.String()
}

func parseLetters(text, names string) (uint64, error) {
	if text == "none" {
		return 0, nil
	}
	var n uint64
	for _, r := range text {
		i := strings.IndexRune(names, r)
		if i < 0 {
			return 0, fmt.Errorf("%q is not a flag: expected letters of %s, or none", r, names)
		}
		n |= 1 << i
	}
	return n, nil
}

// Parse reads a value as it is written in a scenario. Addresses are literal:
// whoever knows hosts by name looks them up first.
func Parse(spec FieldSpec, text string) (Value, error) {
	v := Value{kind: spec.Type}
	var err error
	switch spec.Type {
	case Number:
		v.num, err = strconv.ParseUint(text, 0, 64)
		if err != nil || v.num > spec.max() {
			return v, fmt.Errorf("%s=%s: expected a number from 0 to %d", spec.Name, text, spec.max())
		}
	case Address:
		v.addr, err = netip.ParseAddr(text)
		if err != nil {
			return v, fmt.Errorf("%s=%s: expected an address or a host's name", spec.Name, text)
		}
	case Hardware:
		mac, err := net.ParseMAC(text)
		if err != nil || len(mac) != 6 {
			return v, fmt.Errorf("%s=%s: expected a hardware address like 02:00:00:00:00:01, or a host's name", spec.Name, text)
		}
		v.data = string(mac)
	case Bytes:
		data, err := hex.DecodeString(text)
		if err != nil {
			return v, fmt.Errorf("%s=%s: expected an even number of hex digits", spec.Name, text)
		}
		v.data = string(data)
	case Text:
		v.data = text
	case TCPFlags:
		v.num, err = parseLetters(text, tcpLetters)
	case IPFlags:
		v.num, err = parseLetters(text, ipLetters)
	case NDPFlags:
		v.num, err = parseLetters(text, ndpLetters)
	case ARPOp:
		switch text {
		case "request":
			v.num = 1
		case "reply":
			v.num = 2
		default:
			if v.num, err = strconv.ParseUint(text, 0, 16); err != nil {
				return v, fmt.Errorf("%s=%s: expected request, reply or a number", spec.Name, text)
			}
		}
	}
	if err != nil {
		return v, fmt.Errorf("%s=%s: %w", spec.Name, text, err)
	}
	return v, nil
}

func (l Layer) String() string {
	var b strings.Builder
	b.WriteString(l.Kind)
	b.WriteByte('(')
	for i, f := range l.Fields {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(f.Name)
		b.WriteByte('=')
		b.WriteString(f.Value.String())
	}
	b.WriteByte(')')
	return b.String()
}
