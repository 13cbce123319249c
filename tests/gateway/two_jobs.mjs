// The TypeScript of UCloud's documentation, with nothing but fetch: a database, then a web application that talks to it by name.
// The environment has $host and $accessToken. What the calls give goes to stdout, as JSON, a line each.

const headers = {Authorization: `Bearer ${process.env.accessToken}`};

async function callAPI({method, path, payload}) {
    const body = payload === undefined ? undefined : JSON.stringify(payload);
    const answer = await fetch(process.env.host + path, {method, headers, body});
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
    return await answer.json();
}

const JobsApi = {
    create: payload => ({method: "POST", path: "/api/jobs", payload}),
    retrieve: ({id}) => ({method: "GET", path: `/api/jobs/retrieve?id=${id}`}),
};

async function untilState(id, ...states) {
    for (let i = 0; i < 300; i++) {
        const job = await callAPI(JobsApi.retrieve({id}));
        if (states.includes(job.status.state)) return;
        await new Promise(done => setTimeout(done, 300));
    }
    throw new Error(`job ${id} is in none of the states ${states}`);
}

const database = await callAPI(JobsApi.create(
    {
        "items": [
            {
                "application": {
                    "name": "acme-database",
                    "version": "1.0.0"
                },
                "product": {
                    "id": "example-compute",
                    "category": "example-compute",
                    "provider": "example"
                },
                "name": "my-database",
                "replicas": 1,
                "allowDuplicateJob": false,
                "parameters": {
                    "dataStore": {
                        "type": "file",
                        "path": "/123/acme-database",
                        "readOnly": false
                    }
                },
                "resources": null,
                "timeAllocation": null,
                "openedFile": null,
                "restartOnExit": null,
                "sshEnabled": null
            }
        ]
    }
));
console.log(JSON.stringify(database));
await untilState("4101", "RUNNING");

const webApp = await callAPI(JobsApi.create(
    {
        "items": [
            {
                "application": {
                    "name": "acme-web-app",
                    "version": "1.0.0"
                },
                "product": {
                    "id": "example-compute",
                    "category": "example-compute",
                    "provider": "example"
                },
                "name": "my-web-app",
                "replicas": 1,
                "allowDuplicateJob": false,
                "parameters": null,
                "resources": [
                    {
                        "type": "peer",
                        "hostname": "database",
                        "jobId": "4101"
                    }
                ],
                "timeAllocation": null,
                "openedFile": null,
                "restartOnExit": null,
                "sshEnabled": null
            }
        ]
    }
));
console.log(JSON.stringify(webApp));
await untilState(webApp.responses[0].id, "SUCCESS", "FAILURE");
