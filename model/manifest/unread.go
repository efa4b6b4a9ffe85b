// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirnet/weir/model"
)

// Unread is an object of a cluster that could not be read.
type Unread struct {
	Object  model.Ref
	UID     types.UID
	Field   string // path, as in spec.ports[0].port; empty: it is about all of it
	Problem string // with the remedy
	Raw     []byte // JSON, as the API has it
}
