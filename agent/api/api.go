// SPDX-License-Identifier: Apache-2.0

// Package api has the types of what a node's agent answers on its unix socket,
// and a client for them: for the CNI plugin and for the command line.
//
// It is about one node, and no API of the cluster. Its one invariant: fields
// are added and never change their meaning, since the plugin that asks may be
// of another version than the agent.
package api

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/weirnet/weir/model"
)

// Where the agent and the plugin meet, on the node.
const (
	DefaultSocket   = "/run/weir/agent.sock"
	DefaultStateDir = "/var/lib/weir"
)

// Paths of the API. Those that end in a slash are followed by
// {containerID}/{ifname}.
const (
	PathStatus     = "/v1/status"        // GET: Status
	PathEndpoints  = "/v1/endpoints"     // GET: []Endpoint; POST EndpointRequest: Endpoint
	PathEndpoint   = "/v1/endpoints/"    // GET: Endpoint; DELETE
	PathReady      = "/v1/ready/"        // POST Wired: Endpoint, once it is in force
	PathGC         = "/v1/gc"            // POST GCRequest
	PathIdentities = "/v1/identities"    // GET: []Identity
	PathPolicies   = "/v1/policies"      // GET: []Policy
	PathServices   = "/v1/services"      // GET: []Service
	PathMonitor    = "/v1/monitor"       // GET: Event, one a line, until the client goes
	PathHealthy    = "/v1/plugin/status" // GET: 200 when the agent can wire pods
)

// Status is how a node's agent is.
type Status struct {
	Node    string    `json:"node"`
	Version string    `json:"version"`
	Kernel  string    `json:"kernel"` // release, as uname has it
	Started time.Time `json:"started"`

	// Ready agents have the cluster's state in force. NotReady says why one is
	// not: one sentence with the remedy.
	Ready    bool   `json:"ready"`
	NotReady string `json:"notReady,omitempty"`

	Attachment string         `json:"attachment"` // tcx, clsact or none
	PodCIDRs   []netip.Prefix `json:"podCIDRs"`
	Uplinks    []string       `json:"uplinks"` // names of devices
	MTU        int            `json:"mtu"`     // of pods, in bytes of an IP packet

	Endpoints  EndpointCount `json:"endpoints"`
	Services   int           `json:"services"`   // frontends
	Identities int           `json:"identities"` // of pods, in use
	Policies   int           `json:"policies"`   // objects of all kinds
	Objects    int           `json:"objects"`    // of the cluster, of all kinds

	// Tables are those that objects fill, and those of flows, by name.
	Tables []Table `json:"tables,omitempty"`

	Apply  Apply  `json:"apply"`
	Repair Repair `json:"repair"`
	// Refused are objects that are left out, and fields of objects that claim
	// an address or a port to which another has the better claim.
	Refused []Refused `json:"refused"`
	// Ignored are fields of objects that say nothing here.
	Ignored []Refused `json:"ignored,omitempty"`
	Errors  []Problem `json:"errors"` // what fails now
}

// Table is how full a table of the datapath is.
type Table struct {
	Name    string `json:"name"`
	Entries int    `json:"entries"`
	Room    int    `json:"room"`  // entries that it may have: the configuration's tables.Name
	Bytes   uint64 `json:"bytes"` // of the kernel's memory, now
}

// IsNearlyFull is whether somebody ought to give it more room.
func (t *Table) IsNearlyFull() bool { return t.Entries*100 >= t.Room*nearlyFull }

const nearlyFull = 80 // percent

func (t *Table) String() string {
	return fmt.Sprintf("table %s has %d of %d entries: ask who needs them, or raise tables.%s of the configuration", t.Name, t.Entries, t.Room, t.Name)
}

// EndpointCount counts the node's pods by how far they are.
type EndpointCount struct {
	Known int `json:"known"` // addresses given
	Ready int `json:"ready"` // in the datapath
	// TakenOver are those that another plugin has connected.
	TakenOver int `json:"takenOver,omitempty"`
}

// Apply is how the datapath was last changed.
type Apply struct {
	Last    time.Time `json:"last"`    // that succeeded; zero: none yet
	Seconds float64   `json:"seconds"` // that it took, compilation and all
	Epoch   uint32    `json:"epoch"`
	Count   uint64    `json:"count"`  // since the start
	Failed  uint64    `json:"failed"` // since the start
}

// Repair is the last comparison of the datapath's tables with what they are to hold.
type Repair struct {
	Last     time.Time `json:"last"`     // when it ended; zero: none yet
	Seconds  float64   `json:"seconds"`  // that it took; it is slow on purpose
	Compared int       `json:"compared"` // entries
	// Tables are those that had drifted, and were repaired.
	Tables []RepairedTable `json:"tables,omitempty"`
	// Entries are those that were repaired since the start, by table.
	Entries map[string]uint64 `json:"entries,omitempty"`
}

// RepairedTable is what a table had otherwise than it was to hold.
type RepairedTable struct {
	Table   string   `json:"table"`
	Missing int      `json:"missing"` // entries
	Surplus int      `json:"surplus"` // entries
	Wrong   int      `json:"wrong"`   // entries
	Keys    []string `json:"keys"`    // the first of them, each with what was wrong with it
}

func (t *RepairedTable) String() string {
	return fmt.Sprintf("table %s had %d entries missing, %d surplus and %d wrong: %s", t.Table, t.Missing, t.Surplus, t.Wrong, strings.Join(t.Keys, ", "))
}

// Repaired is how many entries the last comparison repaired.
func (r *Repair) Repaired() int {
	sum := 0
	for i := range r.Tables {
		sum += r.Tables[i].Missing + r.Tables[i].Surplus + r.Tables[i].Wrong
	}
	return sum
}

// Refused is an object that the datapath works without, because it cannot be
// kept: its last good version is not in force either.
type Refused struct {
	Object  model.Ref `json:"ref"`
	UID     string    `json:"uid,omitempty"`
	Field   string    `json:"field,omitempty"`
	Problem string    `json:"problem"` // with the remedy
	Since   time.Time `json:"since"`
	// FieldOnly is whether the field alone is left out, and the rest of the
	// object is in force.
	FieldOnly bool `json:"fieldOnly,omitempty"`
	// Table is the one whose budget does not hold the object; empty where it is
	// something else.
	Table string `json:"table,omitempty"`
	// Ignored is whether it is among Status.Ignored.
	Ignored bool `json:"ignored,omitempty"`
}

// MarshalJSON adds "object": what people call it, Kind namespace/name.
func (r Refused) MarshalJSON() ([]byte, error) {
	type fields Refused
	return json.Marshal(struct {
		Object string `json:"object"`
		fields
	}{r.Object.String(), fields(r)})
}

// Place is the object, and its field where it is about one.
func (r *Refused) Place() string {
	if r.Field == "" {
		return r.Object.String()
	}
	return r.Object.String() + ": " + r.Field
}

// Problem is something that fails now, and is tried again.
type Problem struct {
	What  string    `json:"what"`  // apply, routes, watch, …
	Error string    `json:"error"` // one sentence
	Since time.Time `json:"since"`
}

// EndpointRequest asks for a pod's addresses. Asking again for a ContainerID
// and IfName that has some gives the same.
type EndpointRequest struct {
	ContainerID  string `json:"containerID"`
	IfName       string `json:"ifname"`
	Netns        string `json:"netns"` // path
	PodNamespace string `json:"podNamespace"`
	PodName      string `json:"podName"`
	PodUID       string `json:"podUID,omitempty"`
}

// Endpoint is an interface of a pod of this node.
type Endpoint struct {
	EndpointRequest
	Addresses  []netip.Addr `json:"addresses"` // one a family
	Gateways   []netip.Addr `json:"gateways"`  // of the same families
	MTU        int          `json:"mtu"`
	HostDevice string       `json:"hostDevice"` // name of the host's side
	HostMAC    string       `json:"hostMAC"`
	PodMAC     string       `json:"podMAC"`
	Ifindex    int          `json:"ifindex,omitempty"` // of the host's side; 0: not wired yet
	Created    time.Time    `json:"created"`
	// TakenOver endpoints were connected by another plugin: their devices,
	// gateways and MTU are as that one made them.
	TakenOver bool `json:"takenOver,omitempty"`

	// What follows is known of an endpoint in the datapath alone.
	Ready    bool   `json:"ready"`
	Identity uint32 `json:"identity,omitempty"`
	Policy   string `json:"policy,omitempty"` // its rule set
}

// Wired says that an endpoint's devices are made. The host's side is down: the
// agent brings it up when it has programs.
type Wired struct {
	Ifindex int `json:"ifindex"` // of the host's side
}

// Attachment names an interface of a container.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// GCRequest lists the attachments that are to stay; all others go.
type GCRequest struct {
	Valid []Attachment `json:"valid"`
}

// Identity is a set of labels that policies tell from others, by its number;
// or an address block that policies name, or somebody who is no pod.
type Identity struct {
	Number    uint32   `json:"number"`
	Scope     Scope    `json:"scope"`
	Namespace string   `json:"namespace,omitempty"`
	Labels    string   `json:"labels"`
	Pods      []string `json:"pods"` // namespace/name, of all nodes
}

// Scope is who knows an identity by its number.
type Scope string

// Scopes of identities.
const (
	ScopeReserved Scope = "reserved" // everybody, always
	ScopeShared   Scope = "shared"   // the cluster's nodes
	ScopeLocal    Scope = "local"    // this node alone
)

// Policy is an object that decides about pods.
type Policy struct {
	Object model.Ref `json:"ref"`
	Rules  int       `json:"rules"` // of it in the tables of this node
}

// MarshalJSON adds "object": what people call it, Kind namespace/name.
func (p Policy) MarshalJSON() ([]byte, error) {
	type fields Policy
	return json.Marshal(struct {
		Object string `json:"object"`
		fields
	}{p.Object.String(), fields(p)})
}

// Service is a frontend.
type Service struct {
	Name     string   `json:"name"` // namespace/name:port
	Kind     string   `json:"kind"`
	Scope    string   `json:"scope"` // inside or outside
	Protocol string   `json:"protocol"`
	Address  string   `json:"address"`  // with its port
	Backends []string `json:"backends"` // with their ports
}

// Event is a decision about a packet.
type Event struct {
	Time     time.Time `json:"time"`
	Hook     string    `json:"hook"`
	Endpoint string    `json:"endpoint,omitempty"`
	Verdict  string    `json:"verdict"`
	Reason   string    `json:"reason,omitempty"`
	Protocol string    `json:"protocol"`
	Source   string    `json:"source"`      // with its port
	Target   string    `json:"destination"` // with its port
	From     uint32    `json:"sourceIdentity,omitempty"`
	To       uint32    `json:"destinationIdentity,omitempty"`
	Policy   string    `json:"policy,omitempty"` // the rule that decided
	Flow     string    `json:"flow,omitempty"`   // new, known or rejudged
	// The addresses and ports that the packet leaves with, or would have, where they differ.
	SourceAfter string `json:"translatedSource,omitempty"`
	TargetAfter string `json:"translatedDestination,omitempty"`
	Direction   string `json:"direction"`          // ingress or egress, seen from the endpoint
	Reply       bool   `json:"reply,omitempty"`    // of the reply direction of its flow
	TCPFlags    string `json:"tcpFlags,omitempty"` // as SA: of FSRPAUEC, those that are set
	Length      int    `json:"length"`
	Place       string `json:"place,omitempty"` // file:line of the datapath's source
	// Whose the addresses are, where the cluster knows.
	SourceParty *Party `json:"sourceParty,omitempty"`
	TargetParty *Party `json:"destinationParty,omitempty"`
	// Missed counts the events before this one that a slow client was not
	// given; nothing else is set then.
	Missed uint64 `json:"missed,omitempty"`
}

// Party is an object that has an address.
type Party struct {
	Kind   string `json:"kind"` // Pod, Service, Node or ExternalWorkload
	Name   string `json:"name"` // with its namespace where it has one, and its cluster where that is another
	Labels string `json:"labels,omitempty"`
}

// Error is the body of an answer that is none.
type Error struct {
	Message string `json:"error"` // one sentence with the remedy
	// Again is whether the same may succeed later.
	Again bool `json:"again,omitempty"`
}

func (e *Error) Error() string { return e.Message }
