{{/*
The agent publishes its node, the fleet account the simulated ones. A policy each keeps them to those nodes; what is common to
both policies is here.
*/}}

{{/* What they write. */}}
{{- define "tessera.publishedResources" -}}
- {apiGroups: [resource.k8s.io], apiVersions: ["*"], operations: [CREATE, UPDATE, DELETE], resources: [resourceslices]}
- {apiGroups: [tessera.dev], apiVersions: ["*"], operations: [CREATE, UPDATE, DELETE], resources: [gpunodes, gpunodes/status]}
{{- end }}

{{/* CEL variables: the object that is written, and its node. */}}
{{- define "tessera.publishedVariables" -}}
- name: target
  expression: "request.operation == 'DELETE' ? oldObject : object"
- name: targetNode
  expression: >-
    request.resource.group == "tessera.dev" ? variables.target.metadata.name
    : (has(variables.target.spec.nodeName) ? variables.target.spec.nodeName : "")
{{- end }}

{{/* What holds for every node. Takes who publishes. */}}
{{- define "tessera.publishedValidations" -}}
- expression: request.resource.group == "tessera.dev" || variables.target.spec.driver == "{{ include "tessera.driver" . }}"
  message: {{ . }} publishes only devices of {{ include "tessera.driver" . }}
  reason: Forbidden
# Readers keep only the newest generation of a pool, so a slice in another node's pool would make that node's devices vanish.
- expression: request.resource.group == "tessera.dev" || variables.target.spec.pool.name == variables.targetNode
  messageExpression: "'a slice of node ' + variables.targetNode + ' belongs into the pool of that name, not into pool ' + variables.target.spec.pool.name"
  reason: Forbidden
# The spec of a GPUNode is the operator's word to whoever publishes the node. (Updates of the status leave it as it is anyway.)
- expression: >-
    request.resource.group != "tessera.dev" || request.operation == "DELETE" || (request.operation == "CREATE"
    ? !has(object.spec) || !has(object.spec.gpus) || object.spec.gpus.size() == 0
    : object.?spec == oldObject.?spec)
  message: {{ . }} may not write the spec of a GPUNode, which the operator writes
  reason: Forbidden
{{- end }}
