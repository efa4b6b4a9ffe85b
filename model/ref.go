// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
)

// Ref names an object of the cluster, or who has addresses elsewhere. It is compared and looked up as it is:
// its text is for people, and nobody reads it back.
type Ref struct {
	Kind      string `json:"kind"`                // as the API spells it, or OptionsKind
	Cluster   uint8  `json:"cluster,omitempty"`   // its number; 0: this one
	Namespace string `json:"namespace,omitempty"` // empty: the kind has none
	Name      string `json:"name,omitempty"`      // empty: there is one of the kind, or it has none yet
}

// String gives "Kind namespace/name", as errors and stories call an object.
func (r Ref) String() string {
	if r.Name == "" {
		return r.Kind
	}
	return r.Kind + " " + r.Key()
}

// Key gives namespace/name, or the name alone of an object of no namespace; of
// cluster 7 it is namespace/name@7.
func (r Ref) Key() string {
	return Key{Cluster: r.Cluster, Namespace: r.Namespace, Name: r.Name}.String()
}

// Owner names an owner of addresses by itself.
func (r Ref) Owner() Key {
	key := Key{Cluster: r.Cluster, Namespace: r.Namespace, Name: r.Name}
	if r.Kind == externalWorkload {
		key.Kind = OwnerExternalWorkload
	}
	return key
}

// IsZero is whether r names nothing.
func (r Ref) IsZero() bool { return r == Ref{} }

// Compare orders as the texts are: by kind, namespace and name. Of the same in
// several clusters, this one's is the first.
func (r Ref) Compare(other Ref) int {
	return cmp.Or(cmp.Compare(r.Kind, other.Kind), cmp.Compare(r.Namespace, other.Namespace), cmp.Compare(r.Name, other.Name), cmp.Compare(r.Cluster, other.Cluster))
}
