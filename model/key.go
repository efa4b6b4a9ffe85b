// SPDX-License-Identifier: Apache-2.0

package model

import "strings"

// Key names an object whose kind is known: a pod, a service, a node. Like a Ref
// it is compared and looked up as it is.
type Key struct {
	Namespace string // empty: the kind has none
	Name      string
}

// String gives namespace/name, or the name alone of an object of no namespace.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// IsZero is whether k names nothing.
func (k Key) IsZero() bool { return k == Key{} }

// Compare orders as the texts are.
func (k Key) Compare(other Key) int {
	if k.Namespace == other.Namespace {
		return strings.Compare(k.Name, other.Name)
	}
	return strings.Compare(k.String(), other.String())
}

// MarshalText writes k as String does. Pinned tables hold it, which loaders
// before and after this one read.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText has written. Neither part has a slash: the
// API refuses names that have one.
func (k *Key) UnmarshalText(text []byte) error {
	space, name, found := strings.Cut(string(text), "/")
	if !found {
		space, name = "", space
	}
	*k = Key{Namespace: space, Name: name}
	return nil
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
