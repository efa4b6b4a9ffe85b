// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

type headerSpec struct {
	usage string
	help  string
	parse func(*parser, Pos, *line) error
}

// headers describe the network, before the first step.
var headers map[string]headerSpec

func init() {
	headers = map[string]headerSpec{
		"worlds":    {"worlds prog|netns|cluster...", "in which worlds the scenario holds", parseWorlds},
		"except":    {`except prog|netns|cluster "WHY"`, "in which world it does not hold that could have all of it, and why", parseExcept},
		"families":  {"families ipv4|ipv6...", "once for each family; both when left out", parseFamilies},
		"needs":     {"needs kernel RELEASE | needs config OPTION", "what the kernel must have; else the scenario is skipped", parseNeeds},
		"without":   {"without " + strings.Join(features, "|") + "...", "features of the kernel that the datapath is not to use; only in world netns", parseWithout},
		"topology":  {"topology " + strings.Join(sortedKeys(topologies), "|"), "a network that is ready made", parseTopology},
		"pod":       {"pod [NAMESPACE/]NAME [KEY=[VALUE]...] [PORTNAME:PORT/PROTO...] [on NODE]", "a pod with labels and named ports; KEY= is a label without a value", parsePod},
		"namespace": {"namespace NAME [KEY=[VALUE]...]", "a namespace with labels", parseNamespace},
		"outside":   {"outside NAME...", "hosts beyond the nodes' uplinks", parseOutside},
		"node":      {"node NAME [KEY=[VALUE]...]", "another node beside 'node', or labels of that one", parseNode},
		"uplink": {"uplink [second HOST...]", "the nodes' own devices have programs too; headers that need it say so by themselves; " +
			"with second, each node has one more, which leads to those hosts outside and from them", parseUplink},
		"address": {"address NAME ADDRESS [ADDRESS]",
			"a name for an address of each family that no host has, until a step gives it to a node", parseAddress},
		"sockets": {"sockets", "the nodes' own sockets have programs: what is dialled on a node is led to a service's backend before there is a packet, by node ports on loopback too; only in world netns", parseSockets},
		"route": {"route ADDRESS|NAME|lb(SERVICE.NAMESPACE)... via NODE...", "where the router leads addresses that no host has; else to the first node; " +
			"several nodes share what is sent there: " + sharing, parseRoute},
		"masquerade": {"masquerade [except CIDR...] [ports FIRST-LAST]",
			"what leaves the cluster has the node's address (uplink)", parseMasquerade},
		"maglev":    {"maglev [SIZE]", "backends are chosen by Maglev's tables", parseMaglev},
		"pings":     {"pings answer|drop", "what becomes of pings of services' addresses", parsePings},
		"nodeports": {"nodeports on CIDR...", "which of the nodes' addresses answer on node ports (uplink)", parseNodePorts},
		"shares":    {"shares small", "each pod has room for four flows that nobody has answered, four entries of those that were, and four fragmented packets a hook, before its own give way; only in world prog", parseShares},
		"return":    {"return snat|dsr|hybrid [ipip|geneve]", "how answers of backends on other nodes come back (uplink)", parseReturn},
		"silent":    {"silent HOST...", "hosts that answer nothing by themselves: their frames are all in the script", parseSilent},
	}
}

// topologies are networks by name: the pods of the first node, and those of
// node-2. Each pod has the label app=NAME.
var topologies = map[string][2][]string{
	"one-pod":    {{"client"}},
	"two-pods":   {{"client", "web"}},
	"three-pods": {{"client", "web", "other"}},
	"four-pods":  {{"client", "web-1", "web-2", "other"}},
	"two-nodes":  {{"client", "web-1"}, {"web-2"}},
}

const secondNode = "node-2"

const topologyOutside = "internet"

func parseTopology(p *parser, at Pos, l *line) error {
	t := l.next()
	pods, ok := topologies[t.value]
	if !ok {
		return l.expected("a topology ("+strings.Join(sortedKeys(topologies), ", ")+")", t)
	}
	for i, node := range []string{FirstNode, secondNode} {
		if i > 0 && len(pods[i]) > 0 {
			p.addNode(Node{Pos: at, Name: node})
		}
		for _, name := range pods[i] {
			app, _, _ := strings.Cut(name, "-")
			p.addPod(Pod{Pos: at, Namespace: "default", Name: name, Node: node, Labels: map[string]string{"app": app}})
		}
	}
	p.addOutside(at, topologyOutside)
	return nil
}

func parseWorlds(p *parser, _ Pos, l *line) error {
	words, err := l.words("a world (prog, netns, cluster)")
	for _, w := range words {
		if !slices.Contains(Worlds(), World(w)) {
			return fmt.Errorf("expected a world of prog, netns, cluster, found '%s'\n\tusage: %s", w, l.usage)
		}
		if slices.Contains(p.file.Worlds, World(w)) {
			return fmt.Errorf("world %s is named twice: name it once", w)
		}
		p.file.Worlds = append(p.file.Worlds, World(w))
	}
	return err
}

// parseExcept reads why a scenario is not for a world: for people, and for those who
// ask which of them could be.
func parseExcept(p *parser, _ Pos, l *line) error {
	name, err := l.word("a world (prog, netns, cluster)")
	if err != nil {
		return err
	}
	w := World(name)
	if !slices.Contains(Worlds(), w) {
		return fmt.Errorf("expected a world of prog, netns, cluster, found '%s'\n\tusage: %s", name, l.usage)
	}
	why, err := l.text("why it does not hold there")
	if err != nil {
		return err
	}
	if p.file.Except[w] != "" {
		return fmt.Errorf("world %s is excepted twice: say why once", w)
	}
	if p.file.Except == nil {
		p.file.Except = map[World]string{}
	}
	p.file.Except[w] = why
	return nil
}

func parseFamilies(p *parser, _ Pos, l *line) error {
	words, err := l.words("a family (ipv4, ipv6)")
	for _, w := range words {
		f := Family(w)
		if f != IPv4 && f != IPv6 || slices.Contains(p.file.Families, f) {
			return fmt.Errorf("expected ipv4 or ipv6, each once, found '%s'\n\tusage: %s", w, l.usage)
		}
		p.file.Families = append(p.file.Families, f)
	}
	return err
}

// features of kernels that the datapath can do without.
var features = []string{"tcx", "coarse-clock", "csum-ipv6"}

func parseWithout(p *parser, _ Pos, l *line) error {
	words, err := l.words("a feature (" + strings.Join(features, ", ") + ")")
	for _, w := range words {
		if !slices.Contains(features, w) || slices.Contains(p.file.Without, w) {
			return fmt.Errorf("expected features of %s, each once, found '%s'\n\tusage: %s", strings.Join(features, ", "), w, l.usage)
		}
		p.file.Without = append(p.file.Without, w)
	}
	return err
}

var release = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)

func parseNeeds(p *parser, at Pos, l *line) error {
	what, err := l.word("kernel or config")
	if err != nil {
		return err
	}
	value, err := l.word("a release like 6.6, or an option like NET_SCH_FQ")
	if err != nil {
		return err
	}
	switch {
	case what == "kernel" && release.MatchString(value):
		p.file.Needs = append(p.file.Needs, Need{Pos: at, Kernel: value})
	case what == "config":
		p.file.Needs = append(p.file.Needs, Need{Pos: at, Config: strings.TrimPrefix(value, "CONFIG_")})
	default:
		return fmt.Errorf("expected 'kernel' and a release like 6.6, or 'config' and an option\n\tusage: %s", l.usage)
	}
	return nil
}

// hostName is what Kubernetes takes for a pod's name, without dots: a name
// with a dot is a service's.
var hostName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// reservedNames mean something else where a host may be named.
var reservedNames = []string{FirstNode, "gateway", "broadcast", "nothing"}

func checkName(name string) error {
	if !hostName.MatchString(name) || slices.Contains(reservedNames, name) {
		return fmt.Errorf("'%s' cannot be a name: expected lower-case letters, digits and hyphens, and none of %s",
			name, strings.Join(reservedNames, ", "))
	}
	return nil
}

func parsePod(p *parser, at Pos, l *line) error {
	name, err := l.word("a pod's name")
	if err != nil {
		return err
	}
	pod := Pod{Pos: at, Namespace: "default", Name: name, Node: FirstNode, Labels: map[string]string{}}
	if ns, rest, ok := strings.Cut(name, "/"); ok {
		pod.Namespace, pod.Name = ns, rest
	}
	for _, n := range []string{pod.Namespace, pod.Name} {
		if err := checkName(n); err != nil {
			return err
		}
	}
	for !l.done() {
		if l.assigned() {
			if err := l.label("pod "+pod.HostName(), pod.Labels); err != nil {
				return err
			}
			continue
		}
		if l.accept("on") {
			if pod.Node, err = l.word("a node"); err != nil {
				return err
			}
			continue
		}
		w, err := l.word("KEY=VALUE or PORTNAME:PORT/PROTO")
		if err != nil {
			return err
		}
		port, err := containerPort(l, w)
		if err != nil {
			return err
		}
		pod.Ports = append(pod.Ports, port)
	}
	p.addPod(pod)
	return nil
}

func containerPort(l *line, s string) (ContainerPort, error) {
	name, rest, ok := strings.Cut(s, ":")
	number, proto, hasProto := strings.Cut(rest, "/")
	if !ok || name == "" {
		return ContainerPort{}, fmt.Errorf("expected KEY=VALUE or PORTNAME:PORT/PROTO, found '%s'\n\tusage: %s", s, l.usage)
	}
	if !hasProto {
		proto = "tcp"
	}
	c := ContainerPort{Name: name}
	var err error
	if c.Port, err = portNumber(l, number); err != nil {
		return c, err
	}
	c.Protocol, err = protocol(l, proto, "tcp", "udp", "sctp")
	return c, err
}

// HostName is how a script calls the pod: by name in namespace default, else
// namespace/name.
func (p Pod) HostName() string {
	if p.Namespace == "default" {
		return p.Name
	}
	return p.Namespace + "/" + p.Name
}

func (p *parser) addPod(pod Pod) {
	if !p.isFree(pod.Pos, pod.HostName()) {
		return
	}
	p.file.Pods = append(p.file.Pods, pod)
}

func (p *parser) addOutside(at Pos, name string) {
	if !p.isFree(at, name) {
		return
	}
	p.file.Outside = append(p.file.Outside, name)
}

// isFree says whether nobody has a name yet, and that somebody has.
func (p *parser) isFree(at Pos, name string) bool {
	switch {
	case p.file.HasHost(name):
		p.failf(at, "there is a host %s already: give each its own name", name)
	case p.file.HasAddress(name):
		p.failf(at, "there is an address %s already: give each its own name", name)
	default:
		return true
	}
	return false
}

// HasHost says whether there is a host of that name.
func (f *File) HasHost(name string) bool {
	return f.HasNode(name) || slices.Contains(f.Outside, name) ||
		slices.ContainsFunc(f.Pods, func(p Pod) bool { return p.HostName() == name })
}

// HostNames lists the hosts.
func (f *File) HostNames() []string {
	out := f.NodeNames()
	for _, p := range f.Pods {
		out = append(out, p.HostName())
	}
	return append(out, f.Outside...)
}

func parseNamespace(p *parser, at Pos, l *line) error {
	name, err := l.word("a namespace's name")
	if err != nil {
		return err
	}
	if err := checkName(name); err != nil {
		return err
	}
	ns := Namespace{Pos: at, Name: name, Labels: map[string]string{}}
	for !l.done() {
		if err := l.label("namespace "+name, ns.Labels); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(p.file.Namespaces, func(n Namespace) bool { return n.Name == name }) {
		return fmt.Errorf("namespace %s is described twice: describe it once", name)
	}
	p.file.Namespaces = append(p.file.Namespaces, ns)
	return nil
}

func parseOutside(p *parser, at Pos, l *line) error {
	names, err := l.words("a host's name")
	for _, n := range names {
		if err := checkName(n); err != nil {
			return err
		}
		p.addOutside(at, n)
	}
	return err
}

func parseSockets(p *parser, _ Pos, _ *line) error {
	p.file.Sockets = true
	return nil
}

func parseShares(p *parser, _ Pos, l *line) error {
	if w, err := l.word("small"); err != nil || w != "small" {
		return fmt.Errorf("expected 'small'\n\tusage: %s", l.usage)
	}
	p.file.SmallShares = true
	return nil
}

func parseSilent(p *parser, _ Pos, l *line) error {
	names, err := l.words("a host")
	p.file.Silent = append(p.file.Silent, names...)
	return err
}

// LabelsOf gives a namespace's labels with the one that Kubernetes adds.
func LabelsOf(ns Namespace) map[string]string {
	labels := maps.Clone(ns.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels["kubernetes.io/metadata.name"] = ns.Name
	return labels
}
