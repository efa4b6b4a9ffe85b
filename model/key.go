// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"strconv"
	"strings"
)

// Key names an object whose kind is known: a pod, a service, a node. Like a Ref
// it is compared and looked up as it is.
//
// Who has addresses, and endpoints, may be of several kinds and clusters: there
// the Key says so, and one that says nothing is a pod of this cluster, or a node
// where it has no namespace.
type Key struct {
	Kind      OwnerKind
	Cluster   uint8  // its number, as it is in identities on the wire; 0: this one
	Namespace string // empty: the kind has none
	Name      string
}

// OwnerKind is who has addresses.
type OwnerKind uint8

// Kinds of owners.
const (
	OwnerPod              OwnerKind = iota
	OwnerExternalWorkload           // a machine that is no node
)

// externalWorkload is what Refs, texts and people call the kind.
const externalWorkload = "ExternalWorkload"

func (k OwnerKind) String() string {
	if k == OwnerExternalWorkload {
		return externalWorkload
	}
	return "Pod"
}

// String gives namespace/name, or the name alone of an object of no namespace. It
// is "namespace/name@7" of cluster 7, and "ExternalWorkload namespace/name" of a
// machine.
func (k Key) String() string {
	text := k.Name
	if k.Namespace != "" {
		text = k.Namespace + "/" + k.Name
	}
	if k.Cluster != 0 {
		text += "@" + strconv.Itoa(int(k.Cluster))
	}
	if k.Kind != OwnerPod {
		text = k.Kind.String() + " " + text
	}
	return text
}

// Ref names an owner of addresses with its kind.
func (k Key) Ref() Ref {
	return Ref{Kind: k.Kind.String(), Cluster: k.Cluster, Namespace: k.Namespace, Name: k.Name}
}

// IsZero is whether k names nothing.
func (k Key) IsZero() bool { return k == Key{} }

// Compare orders by kind and cluster, those of neither first, and then as the
// texts are.
func (k Key) Compare(other Key) int {
	return cmp.Or(cmp.Compare(k.Kind, other.Kind), cmp.Compare(k.Cluster, other.Cluster), k.comparePath(other))
}

// comparePath orders as namespace/name does, and makes neither text.
func (k Key) comparePath(other Key) int {
	a, b := k.Namespace, other.Namespace
	switch {
	case a == b:
		return strings.Compare(k.Name, other.Name)
	case a == "" || b == "" || strings.HasPrefix(a, b) || strings.HasPrefix(b, a):
		return strings.Compare(k.path(), other.path())
	}
	return strings.Compare(a, b)
}

func (k Key) path() string { return Key{Namespace: k.Namespace, Name: k.Name}.String() }

// MarshalText writes k as String does. Pinned tables hold it, which loaders
// before and after this one read.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText has written.
func (k *Key) UnmarshalText(text []byte) error {
	*k = ParseKey(string(text))
	return nil
}

// ParseKey reads what String has written. No part has a slash, a blank or an at
// sign: the API refuses names that have one.
func ParseKey(text string) (k Key) {
	if rest, found := strings.CutPrefix(text, externalWorkload+" "); found {
		k.Kind, text = OwnerExternalWorkload, rest
	}
	if at := strings.LastIndexByte(text, '@'); at >= 0 {
		if number, err := strconv.ParseUint(text[at+1:], 10, 8); err == nil && number > 0 {
			k.Cluster, text = uint8(number), text[:at]
		}
	}
	space, name, found := strings.Cut(text, "/")
	if !found {
		space, name = "", space
	}
	k.Namespace, k.Name = space, name
	return k
}

// PortRef names a port of a Service, or a host port of a Pod.
type PortRef struct {
	Namespace, Name string // of the object
	Port            string // its name, or its number where it has none
}

// Object is whose port it is.
func (p PortRef) Object() Key { return Key{Namespace: p.Namespace, Name: p.Name} }

// String gives namespace/name:port.
func (p PortRef) String() string {
	if p.Port == "" {
		return p.Object().String()
	}
	return p.Object().String() + ":" + p.Port
}

// IsZero is whether p names nothing.
func (p PortRef) IsZero() bool { return p == PortRef{} }

// Compare orders as the texts are.
func (p PortRef) Compare(other PortRef) int { return strings.Compare(p.String(), other.String()) }

// MarshalText writes p as String does. Pinned tables hold it, which loaders
// before and after this one read.
func (p PortRef) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText has written. No part has a colon.
func (p *PortRef) UnmarshalText(text []byte) error {
	object, port, _ := strings.Cut(string(text), ":")
	var key Key
	err := key.UnmarshalText([]byte(object))
	*p = PortRef{Namespace: key.Namespace, Name: key.Name, Port: port}
	return err
}
