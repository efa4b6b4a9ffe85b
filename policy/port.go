// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Port is the port of a target and its protocol, as 80/tcp. Of ICMP, which has
// no ports, the number is 0. One that has a name has the number and the protocol
// that the target's containers give it: Of.
type Port struct {
	Number   uint16
	Protocol model.Protocol
	Name     string // of a container's port; empty: Number says which
}

func (p Port) String() string {
	switch {
	case p.Name != "" && p.Protocol != 0:
		return p.Name + "/" + p.Protocol.String()
	case p.Name != "":
		return p.Name
	case p.Protocol == model.ProtocolICMP:
		return p.Protocol.String()
	}
	return fmt.Sprintf("%d/%s", p.Number, p.Protocol)
}

var protocols = map[string]model.Protocol{"tcp": model.ProtocolTCP, "udp": model.ProtocolUDP, "sctp": model.ProtocolSCTP}

// ParsePort reads a port as people write it: 80/tcp, 80 for the same, icmp, or the
// name of a container's port, with or without a protocol.
func ParsePort(text string) (Port, error) {
	if strings.EqualFold(text, "icmp") {
		return Port{Protocol: model.ProtocolICMP}, nil
	}
	digits, name, found := strings.Cut(text, "/")
	protocol, known := protocols[strings.ToLower(name)]
	if found && !known {
		remedy := "give tcp, udp or sctp"
		if meant := manifest.Closest(name, slices.Sorted(maps.Keys(protocols))...); meant != "" {
			remedy = "did you mean " + strings.ToUpper(meant) + "?"
		}
		return Port{}, fmt.Errorf("port %q: %q is no protocol: %s", text, name, remedy)
	}
	if validation.IsValidPortName(digits) == nil {
		return Port{Name: digits, Protocol: protocol}, nil
	}
	if !found {
		protocol = model.ProtocolTCP
	}
	number, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || number == 0 {
		return Port{}, fmt.Errorf("port %q: give a number and a protocol, as 80/tcp, 53/udp, 9/sctp, or icmp, or the name of a container's port", text)
	}
	return Port{Number: uint16(number), Protocol: protocol}, nil
}

// Of is the port by number, on a pod that has it; false where the pod has none of
// that name.
func (p Port) Of(target *Pod) (Port, bool) {
	if p.Name == "" {
		return p, true
	}
	for _, port := range target.ports {
		protocol := protocols[strings.ToLower(string(manifest.ProtocolOr(port.Protocol)))]
		if port.Name == p.Name && (p.Protocol == 0 || p.Protocol == protocol) {
			return Port{Number: uint16(port.ContainerPort), Protocol: protocol}, true
		}
	}
	return p, false
}

// PortOf is a port by number, on the party that is asked about: a name is that of a
// port of the pod's containers.
func PortOf(objs *manifest.Objects, party string, port Port) (Port, error) {
	if port.Name == "" {
		return port, nil
	}
	pod := objs.Pods[party]
	if pod == nil {
		return port, fmt.Errorf("port %s: %s is no pod, whose ports have names: give a number, as 80/tcp", port, party)
	}
	target := &Pod{Name: party, ports: namedPorts(pod)}
	found, ok := port.Of(target)
	if ok {
		return found, nil
	}
	have := "it has none with a name"
	if len(target.ports) > 0 {
		var names []string
		for _, p := range target.ports {
			names = append(names, p.Name)
		}
		have = "it has " + strings.Join(names, ", ")
	}
	if meant := manifest.Closest(port.Name, slices.Sorted(maps.Keys(protocols))...); meant != "" {
		have += "; if the protocol was meant, write PORT/" + strings.ToUpper(meant)
	}
	return port, fmt.Errorf("port %s: no container of Pod %s has a port of that name: %s", port, party, have)
}

// namedPorts are the ports of a pod's containers that have names.
func namedPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var named []corev1.ContainerPort
	for i := range pod.Spec.Containers {
		for _, port := range pod.Spec.Containers[i].Ports {
			if port.Name != "" {
				named = append(named, port)
			}
		}
	}
	return named
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
	return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol.String(), b.Protocol.String()))
}
