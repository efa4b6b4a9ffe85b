// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/weirnet/weir/model"
)

// Port is the port of a target and its protocol, as 80/tcp. Of ICMP, which has
// no ports, the number is 0.
type Port struct {
	Number   uint16
	Protocol model.Protocol
}

func (p Port) String() string {
	if p.Protocol == model.ProtocolICMP {
		return p.Protocol.String()
	}
	return fmt.Sprintf("%d/%s", p.Number, p.Protocol)
}

// ParsePort reads a port as people write it: 80/tcp, 80 for the same, or icmp.
func ParsePort(text string) (Port, error) {
	if strings.EqualFold(text, "icmp") {
		return Port{Protocol: model.ProtocolICMP}, nil
	}
	digits, name, found := strings.Cut(text, "/")
	if !found {
		name = "tcp"
	}
	protocols := map[string]model.Protocol{"tcp": model.ProtocolTCP, "udp": model.ProtocolUDP, "sctp": model.ProtocolSCTP}
	protocol, known := protocols[strings.ToLower(name)]
	number, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || number == 0 || !known {
		return Port{}, fmt.Errorf("port %q: give a number and a protocol, as 80/tcp, 53/udp, 9/sctp, or icmp", text)
	}
	return Port{uint16(number), protocol}, nil
}

// ParsePorts reads several, and gives each once, by number.
func ParsePorts(texts []string) ([]Port, error) {
	var ports []Port
	for _, text := range texts {
		port, err := ParsePort(text)
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	slices.SortFunc(ports, comparePorts)
	ports = slices.Compact(ports)
	if len(ports) == 0 {
		return nil, errors.New("no port: name at least one, as 80/tcp")
	}
	return ports, nil
}

func comparePorts(a, b Port) int {
	return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Protocol.String(), b.Protocol.String()))
}
