// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

type verbSpec struct {
	usage string
	help  string
	parse func(*line) (Verb, error)
}

// verbs are the steps of a script by their first word. Each verb's file adds its own.
var verbs = map[string]verbSpec{}

// define adds a verb. Two of one name are a mistake in this package.
func define(name string, spec verbSpec) {
	if _, there := verbs[name]; there {
		panic("scenarios/syntax: verb " + name + " is defined twice")
	}
	verbs[name] = spec
}

// VerbHelp is one verb, for people.
type VerbHelp struct{ Usage, Help string }

// Help lists headers, then verbs, by name.
func Help() (header, steps []VerbHelp) {
	for _, name := range sortedKeys(headers) {
		header = append(header, VerbHelp{headers[name].usage, headers[name].help})
	}
	for _, name := range sortedKeys(verbs) {
		steps = append(steps, VerbHelp{verbs[name].usage, verbs[name].help})
	}
	return header, steps
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func verbNames() string { return strings.Join(sortedKeys(verbs), ", ") }

// objectKinds are the kinds that may be named, and whether they have a namespace.
var objectKinds = map[string]bool{
	"pod": true, "service": true, "endpointslice": true, "networkpolicy": true, "ciliumnetworkpolicy": true,
	"namespace": false, "node": false, "clusternetworkpolicy": false, "ciliumclusterwidenetworkpolicy": false,
}

func object(l *line, name string) (Object, error) {
	parts := strings.Split(name, "/")
	namespaced, known := objectKinds[parts[0]]
	if !known || slices.Contains(parts, "") || len(parts) < 2 || len(parts) > 3 || len(parts) == 3 && !namespaced {
		return Object{}, fmt.Errorf("'%s' does not name an object: expected KIND/[NAMESPACE/]NAME with a kind of %s\n\tusage: %s",
			name, strings.Join(sortedKeys(objectKinds), ", "), l.usage)
	}
	o := Object{Kind: parts[0], Name: parts[len(parts)-1]}
	if namespaced {
		o.Namespace = "default"
		if len(parts) == 3 {
			o.Namespace = parts[1]
		}
	}
	return o, nil
}

// onlyPod reads the name of a pod, of which alone something is true.
func onlyPod(l *line, what string) (Object, error) {
	name, err := l.word("pod/NAME")
	if err != nil {
		return Object{}, err
	}
	o, err := object(l, name)
	if err == nil && o.Kind != "pod" {
		err = fmt.Errorf("only a pod %s, not a %s\n\tusage: %s", what, o.Kind, l.usage)
	}
	return o, err
}

var protocols = map[string]model.Protocol{
	"tcp": model.ProtocolTCP, "udp": model.ProtocolUDP, "sctp": model.ProtocolSCTP, "icmp": model.ProtocolICMP,
}

func protocol(l *line, name string, allowed ...string) (model.Protocol, error) {
	if !slices.Contains(allowed, name) {
		return 0, fmt.Errorf("expected a protocol of %s, found '%s'\n\tusage: %s", strings.Join(allowed, ", "), name, l.usage)
	}
	return protocols[name], nil
}

func portNumber(l *line, s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("expected a port from 1 to 65535, found '%s'\n\tusage: %s", s, l.usage)
	}
	return uint16(n), nil
}

// target reads PROTO/NAME:PORT. An IPv6 address stands in brackets.
func target(l *line, s string, allowed ...string) (Target, error) {
	proto, rest, ok := strings.Cut(s, "/")
	colon := strings.LastIndexByte(rest, ':')
	if !ok || colon <= 0 {
		return Target{}, fmt.Errorf("expected PROTO/NAME:PORT like tcp/web.default:80, found '%s'\n\tusage: %s", s, l.usage)
	}
	t := Target{Name: rest[:colon]}
	var err error
	if t.Protocol, err = protocol(l, proto, allowed...); err != nil {
		return t, err
	}
	if t.Port, err = portNumber(l, rest[colon+1:]); err != nil {
		return t, err
	}
	if inner, ok := strings.CutPrefix(t.Name, "["); ok {
		t.Name = strings.TrimSuffix(inner, "]")
		if a, err := netip.ParseAddr(t.Name); err != nil || !a.Is6() {
			return t, fmt.Errorf("expected an IPv6 address in brackets, found '%s'\n\tusage: %s", rest[:colon], l.usage)
		}
	}
	return t, nil
}

// arrow reads HOST -> WHAT.
func arrow(l *line, what string) (from, to string, err error) {
	if from, err = l.word("a host"); err != nil {
		return "", "", err
	}
	if err = l.must("->"); err != nil {
		return "", "", err
	}
	to, err = l.word(what)
	return from, to, err
}

func optionalText(l *line) (*string, error) {
	s, err := l.text("a message")
	return &s, err
}

func failure(l *line) (Failure, error) {
	t := l.next()
	switch f := Failure(t.value); f {
	case Refused, Timeout, Reset:
		return f, nil
	}
	return "", l.expected("refused, timeout or reset", t)
}

func layers(l *line, build bool) ([]Layer, error) {
	var out []Layer
	for !l.done() {
		t := l.next()
		kind, ok := frame.KindOf(t.value)
		if t.kind != word || !ok {
			return nil, fmt.Errorf("expected a layer, found %s\n\tlayers: %s", where(t), frame.KindNames())
		}
		if kind.OnlyBuild && !build && kind.Name != "pad" {
			return nil, fmt.Errorf("%s shapes a frame that is sent: it cannot be expected", kind.Name)
		}
		fields, err := layerFields(l, kind)
		if err != nil {
			return nil, err
		}
		out = append(out, Layer{kind.Name, fields})
	}
	return out, nil
}

// layerFields reads (FIELD=VALUE ...), or (VALUE) for a kind with a bare field.
func layerFields(l *line, kind frame.Kind) ([]Assignment, error) {
	if err := l.must("("); err != nil {
		return nil, err
	}
	var out []Assignment
	for !l.accept(")") {
		if kind.Bare != "" && !l.assigned() {
			t := l.next()
			if t.kind != word && t.kind != text {
				return nil, l.expected("a value or ')'", t)
			}
			out = append(out, Assignment{kind.Bare, t.value})
			continue
		}
		t := l.peek()
		a, err := l.assignment("a field of " + kind.Name + " (" + kind.FieldNames() + ") or ')'")
		if err != nil {
			return nil, err
		}
		if _, ok := kind.Field(a.Name); !ok {
			return nil, fmt.Errorf("%s has no field %s: expected one of %s", kind.Name, where(t), kind.FieldNames())
		}
		if slices.ContainsFunc(out, func(o Assignment) bool { return o.Name == a.Name }) {
			return nil, fmt.Errorf("%s names its field %s twice", kind.Name, where(t))
		}
		out = append(out, a)
	}
	return out, nil
}

// hookNames are all hooks that packets meet.
var hookNames = []string{string(model.FromContainer), string(model.ToContainer), string(model.FromDevice), string(model.ToDevice)}

func fields(l *line, allowed map[string][]string) ([]Assignment, error) {
	var out []Assignment
	for !l.done() {
		t := l.peek()
		a, err := l.assignment("one of " + strings.Join(sortedKeys(allowed), ", "))
		if err != nil {
			return nil, err
		}
		values, ok := allowed[a.Name]
		switch {
		case !ok:
			return nil, l.expected("one of "+strings.Join(sortedKeys(allowed), ", "), t)
		case values != nil && !slices.Contains(values, a.Value):
			return nil, fmt.Errorf("%s=%s: expected %s\n\tusage: %s", a.Name, a.Value, strings.Join(values, ", "), l.usage)
		case a.Name == "rule" || a.Name == "count":
			if _, err := strconv.ParseUint(a.Value, 10, 16); err != nil {
				return nil, fmt.Errorf("%s=%s: expected a number\n\tusage: %s", a.Name, a.Value, l.usage)
			}
		case a.Name == "reason" && a.Value != "none" && !knownReason(model.Reason(a.Value)):
			return nil, unknownReason(a.Value)
		}
		out = append(out, a)
	}
	return out, nil
}
