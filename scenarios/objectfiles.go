// SPDX-License-Identifier: Apache-2.0

package scenarios

import "github.com/weirnet/weir/datapath"

// ObjectFiles are ELF files of the programs, in place of the embedded ones: see
// datapath.Options. Nil: the embedded one.
type ObjectFiles struct{ Container, Host, Socket []byte }

// Options are those of a datapath of these programs.
func (o ObjectFiles) Options() datapath.Options {
	return datapath.Options{Object: o.Container, HostObject: o.Host, SocketObject: o.Socket}
}
