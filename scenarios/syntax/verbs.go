// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

type verbSpec struct {
	usage string
	help  string
	parse func(*line) (Verb, error)
}

// verbs are the steps of a script by their first word. Filled by init, since
// the parsers name it in their messages.
var verbs map[string]verbSpec

func init() {
	verbs = map[string]verbSpec{
		"apply":     {"apply FILE...", "make objects, or change those that are there", parseApply},
		"update":    {"update FILE...", "change objects that are there", parseUpdate},
		"delete":    {"delete KIND/[NAMESPACE/]NAME...", "remove objects", parseDelete},
		"label":     {"label pod/NAME|namespace/NAME KEY=[VALUE]... KEY-...", "set labels, remove labels; KEY= leaves the label without a value", parseLabel},
		"terminate": {"terminate pod/NAME", "mark a pod as being deleted", parseTerminate},
		"renew":     {"renew pod/NAME", "give a pod another interface, with other hardware addresses, as if it was made again while its flows last; only in world prog", parseRenew},
		"give": {"give ADDRESS|NAME... to NODE...", "give nodes an address beside their own, which their Node objects do not list: their kernels have it, and the router leads it there; " +
			"of several nodes, " + sharing, parseGive},
		"take":   {"take ADDRESS|NAME... from NODE...", "take away an address that was given", parseTake},
		"lead":   {"lead ADDRESS|NAME|lb(SERVICE.NAMESPACE)... via NODE...", "have the router lead an address to other nodes from now on: to one by hand, or to several, " + sharing, parseLead},
		"listen": {`listen HOST tcp|udp/PORT [answers "TEXT"]`, "serve a port; without answers, send back what comes", parseListen},
		"connect": {`connect HOST -> tcp|udp/NAME:PORT [from PORT] [as CONN] [via HOST] [seen-from HOST] [says "TEXT"] [hears "TEXT"] [unconnected] [mapped] [fails refused|timeout|reset]`,
			"open an exchange with a host, SERVICE.NAMESPACE, lb(SERVICE.NAMESPACE) or an address; without as, also send, expect the answer, and close; " +
				"unconnected is a UDP socket that says with each message where it goes, mapped an IPv6 socket that speaks IPv4 (world netns)", parseConnect},
		"say":   {`say CONN "TEXT" [hears "TEXT"] [fails refused|timeout|reset]`, "send on an open exchange and expect the answer", parseSay},
		"close": {"close CONN", "end an exchange", parseClose},
		"ping":  {"ping HOST -> NAME [fails refused|timeout]", "expect an answer to an echo request", parsePing},
		"send": {"send HOST [posing-as SENDER] LAYER(FIELD=VALUE ...)...",
			"put a frame on a host's interface; posing-as gives it the IP address of somebody else as the sender's: of a host, the gateway, a service, or an address", parseSend},
		"expect": {"expect HOST LAYER(FIELD=VALUE ...)... | expect HOST nothing [LAYER(...)...]",
			"wait for a frame; a field that is not named is not checked", parseExpect},
		"verdict": {"verdict forward|drop|reply [reason=R|none] [out=local|host|device|tunnel|self] [flow=new|known|rejudged|none] [at=HOOK] [on=NODE] [endpoint=POD|NODE] [policy=NAMESPACE/NAME] [rule=N] [table=NAME]",
			"check what the datapath decided about the last frame sent", parseVerdict},
		"flow": {"flow HOST -> PROTO/NAME:PORT [from PORT] [via HOST] [answered=yes|no] [state=S] [service=NAMESPACE/NAME:PORT] [out=O] [on=NODE] [count=N]",
			"wait for an entry of the flow table", parseFlow(false)},
		"no-flow": {"no-flow HOST -> PROTO/NAME:PORT [from PORT] [via HOST]", "the flow table has no such entry", parseFlow(true)},
		"dropped": {"dropped REASON [N times]", "wait for packets dropped or answered for a reason", parseDropped},
		"counter": {"counter REASON|forwarded from-container|to-container|from-device|to-device|socket N [on NODE]", "check a counter of the whole scenario", parseCounter},
		"table":   {`table NAME [on NODE] has|lacks "TEXT"`, "look for text in a table", parseTable},
		"uses": {"uses [no] " + strings.Join(features, "|") + " [from RELEASE [backported RELEASE...]]",
			"whether the datapath uses a feature of the kernel: on kernels from that release on, and not on older ones", parseUses},
		"advance": {"advance DURATION", "move the datapath's clock", parseAdvance},
		"collect": {"collect", "run the collector of flows that are over", parseCollect},
	}
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

func parseApply(l *line) (Verb, error) {
	files, err := l.words("the name of an attached file")
	return &Apply{files}, err
}

func parseUpdate(l *line) (Verb, error) {
	files, err := l.words("the name of an attached file")
	return &Update{files}, err
}

func parseDelete(l *line) (Verb, error) {
	names, err := l.words("KIND/[NAMESPACE/]NAME")
	if err != nil {
		return nil, err
	}
	d := &Delete{}
	for _, n := range names {
		o, err := object(l, n)
		if err != nil {
			return nil, err
		}
		d.Objects = append(d.Objects, o)
	}
	return d, nil
}

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

func parseLabel(l *line) (Verb, error) {
	name, err := l.word("pod/NAME or namespace/NAME")
	if err != nil {
		return nil, err
	}
	v := &Label{Set: map[string]string{}}
	if v.Object, err = object(l, name); err != nil {
		return nil, err
	}
	if k := v.Object.Kind; k != "pod" && k != "namespace" {
		return nil, fmt.Errorf("only pods and namespaces have labels that matter, not a %s\n\tusage: %s", k, l.usage)
	}
	for !l.done() {
		if l.assigned() {
			if err := l.label(v.Object.String(), v.Set); err != nil {
				return nil, err
			}
			continue
		}
		t := l.next()
		key, ok := strings.CutSuffix(t.value, "-")
		if t.kind != word || !ok {
			return nil, l.expected("KEY=VALUE or KEY-", t)
		}
		v.Remove = append(v.Remove, key)
	}
	if len(v.Set)+len(v.Remove) == 0 {
		return nil, l.expected("KEY=VALUE or KEY-", l.peek())
	}
	return v, nil
}

func parseTerminate(l *line) (Verb, error) {
	o, err := onlyPod(l, "terminates")
	return &Terminate{o}, err
}

func parseRenew(l *line) (Verb, error) {
	o, err := onlyPod(l, "is renewed")
	return &Renew{o}, err
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

func parseListen(l *line) (Verb, error) {
	v := &Listen{}
	var err error
	if v.Host, err = l.word("a host"); err != nil {
		return nil, err
	}
	place, err := l.word("tcp/PORT or udp/PORT")
	if err != nil {
		return nil, err
	}
	proto, port, _ := strings.Cut(place, "/")
	if v.Protocol, err = protocol(l, proto, "tcp", "udp"); err != nil {
		return nil, err
	}
	if v.Port, err = portNumber(l, port); err != nil {
		return nil, err
	}
	if l.accept("answers") {
		answer, err := l.text("the answer")
		if err != nil {
			return nil, err
		}
		v.Answer = &answer
	}
	return v, nil
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

func parseConnect(l *line) (Verb, error) {
	from, to, err := arrow(l, "PROTO/NAME:PORT")
	if err != nil {
		return nil, err
	}
	v := &Connect{From: from}
	if v.To, err = target(l, to, "tcp", "udp"); err != nil {
		return nil, err
	}
	for !l.done() && err == nil {
		t := l.next()
		switch t.value {
		case "from":
			var port string
			if port, err = l.word("a source port"); err == nil {
				v.Sport, err = portNumber(l, port)
			}
		case "as":
			v.As, err = l.word("a name for the exchange")
		case "via":
			v.Via, err = l.word("the host that serves it")
		case "seen-from":
			v.Seen, err = l.word("the host whose address the server sees")
		case "says":
			v.Says, err = optionalText(l)
		case "hears":
			v.Hears, err = optionalText(l)
		case "unconnected":
			v.Unconnected = true
		case "mapped":
			v.Mapped = true
		case "fails":
			v.Fails, err = failure(l)
		default:
			err = l.expected("from, as, via, seen-from, says, hears, unconnected, mapped or fails", t)
		}
	}
	if err == nil && v.Unconnected && v.To.Protocol != model.ProtocolUDP {
		err = fmt.Errorf("only a socket of udp may be unconnected\n\tusage: %s", l.usage)
	}
	if err == nil && v.Fails != "" && (v.Via != "" || v.Hears != nil || v.Seen != "") {
		err = fmt.Errorf("an exchange that fails has no server and no answer: leave out via, seen-from and hears, or fails\n\tusage: %s", l.usage)
	}
	return v, err
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

func parseSay(l *line) (Verb, error) {
	v := &Say{}
	var err error
	if v.Conn, err = l.word("the name of an exchange"); err != nil {
		return nil, err
	}
	if v.Text, err = l.text("a message"); err != nil {
		return nil, err
	}
	for !l.done() && err == nil {
		t := l.next()
		switch t.value {
		case "hears":
			v.Hears, err = optionalText(l)
		case "fails":
			v.Fails, err = failure(l)
		default:
			err = l.expected("hears or fails", t)
		}
	}
	return v, err
}

func parseClose(l *line) (Verb, error) {
	name, err := l.word("the name of an exchange")
	return &Close{name}, err
}

func parsePing(l *line) (Verb, error) {
	from, to, err := arrow(l, "a host, service or address")
	if err != nil {
		return nil, err
	}
	v := &Ping{From: from, To: to}
	if l.accept("fails") {
		v.Fails, err = failure(l)
	}
	return v, err
}

func parseSend(l *line) (Verb, error) {
	host, err := l.word("a host")
	if err != nil {
		return nil, err
	}
	v := &Send{Host: host}
	if l.accept("posing-as") {
		if v.Sender, err = l.word("whom it poses as"); err != nil {
			return nil, err
		}
	}
	v.Layers, err = layers(l, true)
	if err == nil && len(v.Layers) == 0 {
		err = l.expected("a layer like tcp(dport=80)", l.peek())
	}
	if err == nil && v.Sender != "" {
		err = v.poses()
	}
	return v, err
}

func parseExpect(l *line) (Verb, error) {
	host, err := l.word("a host")
	if err != nil {
		return nil, err
	}
	v := &Expect{Host: host, Nothing: l.accept("nothing")}
	v.Layers, err = layers(l, false)
	if err == nil && len(v.Layers) == 0 && !v.Nothing {
		err = l.expected("nothing, or a layer like tcp(dport=80)", l.peek())
	}
	return v, err
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

// verdictFields are what verdict may name, with the values that are possible;
// none: anything.
var verdictFields = map[string][]string{
	"reason":   nil,
	"out":      {"local", "host", "device", "tunnel", "self", "none"},
	"flow":     {"new", "known", "rejudged", "none"},
	"at":       hookNames,
	"on":       nil,
	"endpoint": nil, "policy": nil, "rule": nil, "table": nil,
}

// flowFields are what flow may name.
var flowFields = map[string][]string{
	"answered": {"yes", "no"}, "reply": {"yes", "no"},
	"out":   {"local", "host", "device", "tunnel"},
	"on":    nil,
	"state": nil, "service": nil, "count": nil,
}

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

func parseVerdict(l *line) (Verb, error) {
	t := l.next()
	v := &Verdict{Action: model.Action(t.value)}
	switch v.Action {
	case model.Forward, model.Drop, model.Reply:
	default:
		return nil, l.expected("forward, drop or reply", t)
	}
	var err error
	v.Fields, err = fields(l, verdictFields)
	return v, err
}

func parseFlow(absent bool) func(*line) (Verb, error) {
	return func(l *line) (Verb, error) {
		from, to, err := arrow(l, "PROTO/NAME:PORT")
		if err != nil {
			return nil, err
		}
		v := &FlowCheck{Absent: absent, From: from}
		if v.To, err = flowTarget(l, to); err != nil {
			return nil, err
		}
		if l.accept("from") {
			port, err := l.word("a source port")
			if err != nil {
				return nil, err
			}
			if v.Sport, err = portNumber(l, port); err != nil {
				return nil, err
			}
		}
		if l.accept("via") {
			if v.Via, err = l.word("the host that serves it"); err != nil {
				return nil, err
			}
		}
		v.Fields, err = fields(l, flowFields)
		return v, err
	}
}

// flowTarget is a target whose port is left out for ICMP.
func flowTarget(l *line, s string) (Target, error) {
	if name, ok := strings.CutPrefix(s, "icmp/"); ok {
		return Target{Protocol: model.ProtocolICMP, Name: name}, nil
	}
	return target(l, s, "tcp", "udp", "sctp")
}

func parseDropped(l *line) (Verb, error) {
	name, err := l.word("a reason")
	if err != nil {
		return nil, err
	}
	v := &Dropped{Reason: model.Reason(name)}
	if !knownReason(v.Reason) {
		return nil, unknownReason(name)
	}
	if !l.done() {
		count, err := l.word("how many times")
		if err != nil {
			return nil, err
		}
		if v.Times, err = strconv.Atoi(count); err != nil || v.Times < 1 {
			return nil, fmt.Errorf("expected a number of times from 1, found '%s'\n\tusage: %s", count, l.usage)
		}
		if !l.accept("times") && !l.accept("time") {
			return nil, l.expected("'times'", l.peek())
		}
	}
	return v, nil
}

func parseCounter(l *line) (Verb, error) {
	v := &Counter{}
	var err error
	if v.Name, err = l.word("a reason, or forwarded"); err != nil {
		return nil, err
	}
	if v.Name != "forwarded" && !knownReason(model.Reason(v.Name)) {
		return nil, unknownReason(v.Name)
	}
	counting := append(slices.Clone(hookNames), "socket")
	hook, err := l.word("a hook (" + strings.Join(counting, ", ") + ")")
	if err != nil {
		return nil, err
	}
	v.Hook = model.Hook(hook)
	if !slices.Contains(counting, hook) {
		return nil, fmt.Errorf("expected a hook of %s, found '%s'\n\tusage: %s", strings.Join(counting, ", "), hook, l.usage)
	}
	count, err := l.word("how many packets")
	if err != nil {
		return nil, err
	}
	if v.Count, err = strconv.ParseUint(count, 10, 64); err != nil {
		return nil, fmt.Errorf("expected a number of packets, found '%s'\n\tusage: %s", count, l.usage)
	}
	if l.accept("on") {
		v.Node, err = l.word("a node")
	}
	return v, err
}

func parseTable(l *line) (Verb, error) {
	v := &TableCheck{}
	var err error
	if v.Table, err = l.word("the name of a table"); err != nil {
		return nil, err
	}
	if l.accept("on") {
		if v.Node, err = l.word("a node"); err != nil {
			return nil, err
		}
	}
	switch {
	case l.accept("has"):
	case l.accept("lacks"):
		v.Lacks = true
	default:
		return nil, l.expected("has or lacks", l.peek())
	}
	v.Text, err = l.text("what to look for")
	return v, err
}

func parseUses(l *line) (Verb, error) {
	v := &Uses{Not: l.accept("no")}
	t := l.next()
	if !slices.Contains(features, t.value) {
		return nil, l.expected("a feature ("+strings.Join(features, ", ")+")", t)
	}
	v.Feature = t.value
	if v.Not || !l.accept("from") {
		return v, nil
	}
	words, err := l.words("a release like 6.6")
	if err != nil {
		return nil, err
	}
	v.From, v.Backported = words[0], words[1:]
	if len(v.Backported) > 0 && v.Backported[0] == "backported" {
		v.Backported = v.Backported[1:]
	}
	for _, r := range append([]string{v.From}, v.Backported...) {
		if !release.MatchString(r) {
			return nil, fmt.Errorf("expected a release like 6.6, found '%s'\n\tusage: %s", r, l.usage)
		}
	}
	return v, nil
}

func parseAdvance(l *line) (Verb, error) {
	s, err := l.word("a duration like 61s")
	if err != nil {
		return nil, err
	}
	by, err := time.ParseDuration(s)
	if err != nil || by <= 0 {
		return nil, fmt.Errorf("expected a duration like 61s or 6h, found '%s'\n\tusage: %s", s, l.usage)
	}
	return &Advance{by}, nil
}

func parseCollect(*line) (Verb, error) { return &Collect{}, nil }
