// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"strings"
)

// PolicyRef names a policy, of any kind, as a Ref does, with another text.
type PolicyRef struct {
	Kind      string // as the API spells it
	Namespace string // empty: the kind has none
	Name      string // empty: it has none yet
}

// Policy names a policy by its Ref.
func (r Ref) Policy() PolicyRef { return PolicyRef{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name} }

// Ref names the policy as any object is named.
func (p PolicyRef) Ref() Ref { return Ref{Kind: p.Kind, Namespace: p.Namespace, Name: p.Name} }

// String gives Kind/namespace/name, or Kind/name where the kind has no
// namespace: as rules and JSON name a policy. It is empty where p names nothing.
func (p PolicyRef) String() string {
	text := p.Kind
	if p.Namespace != "" {
		text += "/" + p.Namespace
	}
	if p.Name != "" {
		text += "/" + p.Name
	}
	return text
}

// IsZero is whether p names nothing.
func (p PolicyRef) IsZero() bool { return p == PolicyRef{} }

// Compare orders by kind, namespace and name.
func (p PolicyRef) Compare(other PolicyRef) int {
	return cmp.Or(cmp.Compare(p.Kind, other.Kind), cmp.Compare(p.Namespace, other.Namespace), cmp.Compare(p.Name, other.Name))
}

// MarshalText writes p as String does. Pinned tables hold it, which loaders
// before and after this one read.
func (p PolicyRef) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText has written. None of the parts has a
// slash: the API refuses names that have one.
func (p *PolicyRef) UnmarshalText(text []byte) error {
	*p = PolicyRef{}
	switch parts := strings.SplitN(string(text), "/", 3); len(parts) {
	case 1:
		p.Kind = parts[0]
	case 2:
		p.Kind, p.Name = parts[0], parts[1]
	case 3:
		p.Kind, p.Namespace, p.Name = parts[0], parts[1], parts[2]
	}
	return nil
}
