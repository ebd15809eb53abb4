// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
)

// An ovsTable is what ovs-vsctl --format=json prints of a table: values are as
// RFC 7047, section 5.1, has them.
type ovsTable struct {
	Headings []string
	Data     [][]json.RawMessage
}

// look asks the database what is there.
func (o *ovs) look(ctx context.Context) (there ovsState, err error) {
	bridges, err := o.list(ctx, "bridge", "name,external_ids,ports")
	if err != nil {
		return there, err
	}
	ports, err := o.list(ctx, "port", "name,external_ids,_uuid")
	if err != nil {
		return there, err
	}
	bridgeOf := map[string]string{} // by UUID of a port
	for _, row := range bridges.Data {
		name := ovsText(row[0])
		for _, uuid := range ovsUUIDs(row[2]) {
			bridgeOf[uuid] = name
		}
		if name == o.bridge {
			_, ours := ovsMap(row[1])[ovsMark]
			there.bridge = &ovsOwner{ours: ours}
		}
	}
	there.ports = map[string]ovsOwner{}
	for _, row := range ports.Data {
		name, ids := ovsText(row[0]), ovsMap(row[1])
		kind, ours := ids[ovsMark]
		p := ovsOwner{ours: ours}
		for _, uuid := range ovsUUIDs(row[2]) {
			p.bridge = bridgeOf[uuid]
		}
		there.ports[name] = p
		if kind == "mirror" && p.bridge == o.bridge {
			there.mirrors = append(there.mirrors, name)
		}
	}
	return there, nil
}

// list returns columns of a table.
func (o *ovs) list(ctx context.Context, table, columns string) (t ovsTable, err error) {
	text, err := o.vsctl(ctx, "--format=json", "--columns="+columns, "list", table)
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return t, fmt.Errorf("ovs: ovs-vsctl list %s printed no table: %w", table, err)
	}
	for _, row := range t.Data {
		if len(row) != len(t.Headings) || len(row) < 2 {
			return t, fmt.Errorf("ovs: ovs-vsctl list %s printed %d columns of %d", table, len(row), len(t.Headings))
		}
	}
	return t, nil
}

// ovsText returns a string value; "" if it is none.
func ovsText(v json.RawMessage) (s string) {
	_ = json.Unmarshal(v, &s)
	return s
}

// ovsMap returns a map of strings: ["map", [[key, value], …]].
func ovsMap(v json.RawMessage) map[string]string {
	var pair [2]json.RawMessage
	var list [][2]string
	out := map[string]string{}
	if json.Unmarshal(v, &pair) == nil && ovsText(pair[0]) == "map" && json.Unmarshal(pair[1], &list) == nil {
		for _, p := range list {
			out[p[0]] = p[1]
		}
	}
	return out
}

// ovsUUIDs returns a set of UUIDs: ["uuid", X], or ["set", [["uuid", X], …]].
func ovsUUIDs(v json.RawMessage) (out []string) {
	var pair [2]json.RawMessage
	if json.Unmarshal(v, &pair) != nil {
		return nil
	}
	switch ovsText(pair[0]) {
	case "uuid":
		return []string{ovsText(pair[1])}
	case "set":
		var list []json.RawMessage
		if json.Unmarshal(pair[1], &list) == nil {
			for _, u := range list {
				out = append(out, ovsUUIDs(u)...)
			}
		}
	}
	return out
}
