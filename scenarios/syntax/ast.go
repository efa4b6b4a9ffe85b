// SPDX-License-Identifier: Apache-2.0

// Package syntax reads scenario files: one text file each, a script and
// behind it the files that it needs.
//
// It finds every mistake that can be found without a network, and resolves
// nothing: names stay names until a scenario runs in a world and a family.
// Its one invariant is that a File that Parse gives without an error has no
// verb, field or name that the engine does not know.
package syntax

import (
	"fmt"
	"net/netip"

	"github.com/weirnet/weir/model"
)

// Pos is a place in a scenario file.
type Pos struct {
	File string
	Line int // from 1
}

func (p Pos) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// File is one scenario.
type File struct {
	Name        string // the file's name without folder and suffix
	Path        string
	Description string // the comment that it begins with
	Source      string // the whole file, for people

	Worlds   []World
	Families []Family
	Needs    []Need
	// Except says why it does not hold in worlds that could have all of it.
	Except map[World]string

	Nodes      []Node // the first is always "node"
	Pods       []Pod
	Namespaces []Namespace
	Outside    []string
	Named      []Named  // addresses that no host has at first
	Silent     []string // hosts whose stacks answer nothing
	Without    []string // features that the datapath is not to use

	Uplinks bool          // the nodes' own devices have programs
	Second  []string      // outside hosts that second uplinks of the nodes lead to
	Sockets bool          // the nodes' own sockets have programs
	Options model.Options // the operator's
	// SmallShares gives each pod a few entries of the tables that make room by
	// themselves.
	SmallShares bool
	Routes      []Route // of the router, besides

	Steps []Step
	// Warnings tell of former names, each with its place.
	Warnings []string
	Files    map[string]Attached
}

// World is a kind of world.
type World string

// Worlds.
const (
	Prog    World = "prog"
	Netns   World = "netns"
	Cluster World = "cluster"
)

// Worlds are all of them, the fastest first.
func Worlds() []World { return []World{Prog, Netns, Cluster} }

// Family is an IP family.
type Family string

// Families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// V6 says whether it is IPv6.
func (f Family) V6() bool { return f == IPv6 }

// Need is what a scenario cannot run without.
type Need struct {
	Pos    Pos
	Kernel string // the oldest release, or ""
	Config string // an option of the kernel's configuration without CONFIG_, or ""
}

// FirstNode is the name of the node that every scenario has.
const FirstNode = "node"

// Node is a node with labels.
type Node struct {
	Pos    Pos
	Name   string
	Labels map[string]string
}

// Named is an address, at most one of each family, by a name.
type Named struct {
	Pos       Pos
	Name      string
	Addresses []netip.Addr
}

// Route leads what is sent to an address to a node. Routes to one address share
// what is sent there.
type Route struct {
	Pos  Pos
	To   string // an address, its name, or that of a load balancer's
	Node string
}

// Pod is a pod of a node.
type Pod struct {
	Pos             Pos
	Namespace, Name string
	Node            string
	Labels          map[string]string
	Ports           []ContainerPort
}

// ContainerPort is a port with a name.
type ContainerPort struct {
	Name     string
	Port     uint16
	Protocol model.Protocol
}

// Namespace is a namespace with labels.
type Namespace struct {
	Pos    Pos
	Name   string
	Labels map[string]string
}

// Attached is a file behind the script.
type Attached struct {
	Line int // of its first line of content in the scenario file
	Data []byte
}

// Step is one line of the script.
type Step struct {
	Pos  Pos
	Text string // as it is written
	// Only is the family that it is for; empty for all.
	Only Family
	// Eventually repeats the step until it holds or its time is over.
	Eventually bool
	Verb       Verb
}

// Failure is how an exchange must fail; empty: it must not.
type Failure string

// Failures.
const (
	Refused Failure = "refused"
	Timeout Failure = "timeout"
	Reset   Failure = "reset"
)

// Object names a Kubernetes object.
type Object struct {
	Kind            string // in lower case, as kubectl takes it
	Namespace, Name string
}

func (o Object) String() string {
	if o.Namespace == "" {
		return o.Kind + "/" + o.Name
	}
	return o.Kind + "/" + o.Namespace + "/" + o.Name
}

// Target is what is connected to: a host, NAME.NAMESPACE of a service,
// lb(NAME.NAMESPACE) of its load balancer, or an address.
type Target struct {
	Protocol model.Protocol
	Name     string
	Port     uint16
}

func (t Target) String() string { return fmt.Sprintf("%s/%s:%d", t.Protocol, t.Name, t.Port) }

// Assignment is name=value.
type Assignment struct{ Name, Value string }

// Layer is a described layer, its names not yet looked up.
type Layer struct {
	Kind   string
	Fields []Assignment
}
